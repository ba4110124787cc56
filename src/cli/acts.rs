//! `dispatcher acts`: the operators' log.

use super::{CliError, Context, output};
use crate::outbox::acts::{Act, ActFilter, list_acts};

/// Which acts are listed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only such acts
    #[arg(long, value_enum)]
    act: Option<Act>,
    /// Only of this operator, as the column says it
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
    /// Rows on a page
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    /// Continue below this id
    #[arg(long, value_name = "ID")]
    after: Option<i64>,
}

pub(super) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let filter = ActFilter {
        after: args.after,
        limit: args.limit,
        act: args.act,
        who: args.who.clone(),
    };
    let rows = list_acts(&mut context.database().await?, &filter).await?;
    let columns = ["id", "at", "who", "role", "via", "act", "subject", "reason"];
    output::rows(context.output, &columns, &rows)?;
    if let Some(last) = rows.last().filter(|_| rows.len() as i64 == args.limit) {
        eprintln!("there may be more: --after {}", last.id);
    }
    Ok(())
}
