//! Logs go to standard error: one line an event, whatever is in it.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

/// Sends the process's events, librdkafka's and other crates' included, to standard error. Called once; a second call
/// is ignored, for a host of several services in one process.
pub fn init_logs(log: &Log) {
    // Also bridges events of the crate `log`.
    let _ = subscriber(log, io::stderr).try_init();
}

/// Without colours: tracing-subscriber lets escape characters of `%` fields through, and then its own could not be
/// told from a client's.
fn subscriber<M>(log: &Log, to: M) -> Box<dyn Subscriber + Send + Sync>
where
    M: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // `Config::load` has refused a filter that cannot be read.
    let filter = EnvFilter::new(&log.filter);
    let fmt = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(OneLine(to));
    match log.format {
        LogFormat::Json => Box::new(fmt.json().flatten_event(true).with_span_list(false).finish()),
        LogFormat::Pretty => Box::new(fmt.finish()),
    }
}

/// Writes events through [`one_line`].
struct OneLine<W>(W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for OneLine<M> {
    type Writer = OneLine<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLine(self.0.make_writer())
    }
}

impl<W: Write> Write for OneLine<W> {
    /// tracing-subscriber hands over a whole event at a time.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(one_line(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The event with its control characters spelt out as JSON does, but for the line's end, so that nobody can forge a
/// line, or rule a terminal, by what he sends. JSON leaves U+007F to U+009F as they are, the other format most.
fn one_line(event: &str) -> Cow<'_, str> {
    let (line, end) = match event.strip_suffix('\n') {
        Some(line) => (line, "\n"),
        None => (event, ""),
    };
    if !line.contains(char::is_control) {
        return Cow::Borrowed(event);
    }
    let mut out = String::with_capacity(event.len() + 16);
    for c in line.chars() {
        if c.is_control() {
            write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String cannot fail");
        } else {
            out.push(c);
        }
    }
    out.push_str(end);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    const HOSTILE: &str = "a\r\n2026-11-23 ERROR forged\u{1b}[31m\u{9b}31m\u{0}\u{7}end";

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        let log = Log {
            format,
            filter: "info".to_owned(),
        };
        let subscriber = subscriber(&log, move || to.clone());
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", request_id = HOSTILE, shown = %HOSTILE);
            let _entered = span.enter();
            tracing::info!(quoted = HOSTILE, shown = %HOSTILE, debug = ?HOSTILE, "{HOSTILE}");
            tracing::debug!("filtered out");
        });
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_hostile_value_stays_in_its_line() {
        for format in [LogFormat::Json, LogFormat::Pretty] {
            let text = written(format);
            let line = text.strip_suffix('\n').unwrap();
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(line.contains("forged"), "{line}");
        }
    }

    #[test]
    fn json_carries_values_exactly() {
        let event: Value = serde_json::from_str(&written(LogFormat::Json)).unwrap();
        assert_eq!(event["message"], HOSTILE);
        assert_eq!(event["shown"], HOSTILE);
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["span"]["request_id"], HOSTILE);
    }
}
