//! What librdkafka complains of, and what to do about it: for the log and for `doctor`.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rdkafka::{ClientContext, client::DefaultClientContext, config::RDKafkaLogLevel};

/// The newest complaint of a client, of those with a known remedy if there was one. The cause is only in what
/// the client says beside a call: the call itself times out.
#[derive(Debug, Default)]
pub struct Complaints {
    kept: Mutex<Option<String>>,
    count: AtomicU64,
}

impl Complaints {
    /// Keeps what was said, unless that has no remedy and what is kept has one: "all brokers are down" follows
    /// the cause at once, and says less.
    pub fn note(&self, said: &str) {
        let said = without_thread(said);
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.lock();
        if advise(said).is_some() || kept.as_deref().and_then(advise).is_none() {
            *kept = Some(said.to_owned());
        }
    }

    /// Logs a line of the client as rdkafka does, and keeps it if it says why a broker cannot be used. A broker
    /// that hangs up on a client without TLS is only spoken of here, and at level info.
    pub fn note_log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if facility == "FAIL" || (level as i32) <= RDKafkaLogLevel::Error as i32 {
            self.note(line);
        }
        DefaultClientContext.log(level, facility, line);
    }

    /// What is kept.
    pub fn newest(&self) -> Option<String> {
        self.kept.lock().clone()
    }

    /// How often something was complained of.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Nothing is wrong any more.
    pub fn forget(&self) {
        *self.kept.lock() = None;
    }
}

/// Log lines begin with the client's thread, which helps nobody.
fn without_thread(line: &str) -> &str {
    line.strip_prefix("[thrd:")
        .and_then(|rest| rest.split_once("]: "))
        .map_or(line, |(_, rest)| rest)
}

/// What to do about a complaint of librdkafka; `None`: it says nothing beyond that nobody answered.
pub fn advise(complaint: &str) -> Option<&'static str> {
    let said = complaint.to_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let hung_up_at_once = said.contains("disconnected") && said.contains("in state apiversion_query");
    Some(if any(&["connecting to a plaintext broker", "wrong version number"]) {
        "the broker speaks no TLS there: set security.protocol to PLAINTEXT or SASL_PLAINTEXT in kafka.properties, or \
         name the TLS port"
    } else if any(&["connecting to a ssl listener", "incorrect security.protocol"]) || hung_up_at_once {
        "the broker hangs up at the first word: if it speaks TLS or asks for SASL, set security.protocol to SSL or \
         SASL_SSL, and ssl.ca.location, in kafka.properties"
    } else if any(&[
        "certificate verify failed",
        "could not be verified",
        "unable to get local issuer",
    ]) {
        "the broker's certificate is not trusted: set ssl.ca.location in kafka.properties"
    } else if any(&["hostname mismatch", "certificate does not match"]) {
        "the broker's certificate is for another name: use the name that it was made for in kafka.brokers"
    } else if any(&["certificate required", "bad certificate"]) {
        "the broker asks for a client certificate: set ssl.certificate.location and ssl.key.location"
    } else if any(&[
        "unsupported sasl mechanism",
        "mechanism handshake failed",
        "no worthy mechs",
    ]) {
        "the broker does not take this SASL mechanism: set sasl.mechanism in kafka.properties to one that it names"
    } else if any(&[
        "authentication failed",
        "sasl authentication error",
        "invalid credentials",
    ]) {
        "user or password is wrong: check sasl.username and sasl.password in kafka.properties"
    } else if any(&["require sasl", "sasl required", "unexpected kafka request"]) {
        "the broker asks for SASL: set security.protocol, sasl.mechanism, sasl.username and sasl.password"
    } else if any(&["transactional id authorization"]) {
        "the user may not use the transactional ids, of which the second ends in `.2`: give it Write and Describe on both \
         (a prefix is enough: the topic's name), or set relay.delivery to at-least-once"
    } else if any(&["failed to resolve", "name or service not known"]) {
        "the name is unknown here: check kafka.brokers, and advertised.listeners of the brokers"
    } else if any(&["find-hanging"]) {
        "have its owner end the transaction, or end it with kafka-transactions.sh abort, this partition and this offset; \
         nothing that was accepted is lost meanwhile"
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_kept_over_what_says_less() {
        let complaints = Complaints::default();
        for said in [
            "1/1 brokers are down",
            "[thrd:h:9092/bootstrap]: h:9092/bootstrap: Failed to resolve 'h:9092': Name or service not known",
            "1/1 brokers are down",
        ] {
            complaints.note(said);
        }
        assert_eq!(
            complaints.newest().as_deref(),
            Some("h:9092/bootstrap: Failed to resolve 'h:9092': Name or service not known")
        );
        complaints.forget();
        assert_eq!(complaints.newest(), None);
    }

    #[test]
    fn each_way_of_being_kept_out_has_its_own_advice() {
        // As librdkafka 2.12 words them.
        for (complaint, word) in [
            (
                "ssl://h:9092/bootstrap: SSL handshake failed: error:0A00010B:SSL routines::wrong version number: SSL \
              handshake error (connecting to a PLAINTEXT broker listener?)",
                "speaks no TLS",
            ),
            (
                "h:9092/bootstrap: Disconnected while requesting ApiVersion: might be caused by incorrect security.protocol \
              configuration (connecting to a SSL listener?) or broker version is < 0.10",
                "speaks TLS",
            ),
            (
                "h:9093/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 52ms in state \
              APIVERSION_QUERY)",
                "speaks TLS",
            ),
            (
                "ssl://h:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: \
              broker certificate could not be verified, verify that ssl.ca.location is correctly configured",
                "ca.location",
            ),
            (
                "sasl_plaintext://h:9092/bootstrap: SASL authentication error: Authentication failed: Invalid username or \
              password",
                "password is wrong",
            ),
            (
                "sasl_plaintext://h:9092/bootstrap: Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-512",
                "mechanism",
            ),
            (
                "h:9092/bootstrap: Failed to resolve 'h:9092': Name or service not known",
                "kafka.brokers",
            ),
            (
                "partition 2 has an open transaction at offset 175, before its end at 176: `kafka-transactions.sh \
              find-hanging` names it",
                "kafka-transactions.sh abort",
            ),
        ] {
            let advice = advise(complaint).unwrap_or_else(|| panic!("no advice on {complaint}"));
            assert!(advice.contains(word), "{complaint}: {advice}");
        }
        assert_eq!(
            advise("127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused"),
            None
        );
    }
}
