//! What the service takes beside processor time: memory, time to be ready, size.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use image_job_dispatcher::config::Delivery;

use crate::{
    accept::{CONNECTIONS, Ours},
    report::Report,
    settings::Settings,
    stack::Stack,
    usage::resident,
};

const MIB: f64 = (1 << 20) as f64;
/// Connections beside the usual number, where accepting is looked at for its memory.
const MANY: usize = 1000;

/// Memory of a service that idles and that accepts; the drains' stands beside their rates.
pub async fn memory(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let (mut idle, mut full, mut many) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        let mut ours = Ours::new(stack, 1, "all").await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        idle.push(resident(ours.replicas[0].pid())? / MIB);
        let peak = async |ours: &mut Ours, connections| -> Result<f64> {
            Ok(ours.run(stack, connections, settings.seconds).await?.others["peak_rss_MiB"])
        };
        full.push(peak(&mut ours, CONNECTIONS).await?);
        many.push(peak(&mut ours, MANY).await?);
        ours.end(stack).await?;
    }
    report.fact("resident, idle, leading", "MiB", idle);
    let name = format!("resident at most, accepting all that {CONNECTIONS} connections ask, and relaying");
    report.fact(&name, "MiB", full);
    let name = format!("resident at most, accepting all that {MANY} connections ask, and relaying");
    report.fact(&name, "MiB", many);
    report.write(&settings.out)
}

/// From the start of the process to 200 from `/readyz`; and the program's size.
pub async fn start(stack: &Stack, settings: &Settings, report: &mut Report) -> Result<()> {
    let (database, topic) = (stack.database().await?, stack.topic().await?);
    let mut took = Vec::new();
    for _ in 0..settings.rounds {
        let began = Instant::now();
        let mut service = stack.service(&database, &topic, "all", Delivery::AtLeastOnce)?;
        service.ready().await?;
        took.push(began.elapsed().as_secs_f64() * 1000.0);
        service.stop().await?;
    }
    stack.drop_database(&database.name).await?;
    stack.delete_topic(&topic).await?;
    report.fact("from start to ready", "ms", took);
    let program = env!("CARGO_BIN_EXE_dispatcher");
    let size = fs::metadata(program)?.len() as f64 / MIB;
    report.fact("the program `dispatcher`, with line tables", "MiB", vec![size]);
    let stripped = std::env::temp_dir().join(format!("dispatcher-stripped-{}", std::process::id()));
    // Comes with the C toolchain that the build needs.
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(program).status()?;
    if !status.success() {
        bail!("strip: {status}");
    }
    let size = fs::metadata(&stripped)?.len() as f64 / MIB;
    fs::remove_file(stripped)?;
    report.fact("the program `dispatcher`, stripped", "MiB", vec![size]);
    report.write(&settings.out)
}
