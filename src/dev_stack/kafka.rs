//! Apache Kafka in KRaft mode: one broker, or several as a cluster.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    types::RDKafkaErrorCode,
};

use super::{Home, KafkaLibs, process, process::Server};

const START_BOUND: Duration = Duration::from_secs(90);
const STOP_BOUND: Duration = Duration::from_secs(30);
const REQUEST_BOUND: Duration = Duration::from_secs(20);

/// What a broker needs for listeners that are not open to everybody. It knows rights, too: everybody has all of them where
/// no rule says otherwise, and who comes without a login has them always.
#[derive(Debug, Clone)]
pub struct Security {
    /// The certificate of 127.0.0.1, PEM.
    pub certificate: String,
    /// Its key, PKCS #8 in PEM.
    pub key: String,
    /// Who may log in by SASL PLAIN, over TLS only.
    pub user: String,
    /// Of that user.
    pub password: String,
}

/// Listeners beside the usual one.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// One that speaks TLS, and one that speaks TLS and asks for a login.
    pub security: Option<Security>,
    /// Each on the first port, for clients that come through a proxy on the second: the broker tells them to.
    pub proxied: Vec<(u16, u16)>,
}

/// One broker, which is a controller too, on 127.0.0.1. Its data survives stop and kill.
#[derive(Debug)]
pub struct KafkaBroker {
    server: Server,
    port: u16,
    /// Of the listeners with TLS, and with TLS and a login.
    secured: Option<(u16, u16)>,
    /// Of the cluster that it is in.
    size: usize,
    _home: Home,
}

/// What every broker of a cluster has to know of each.
#[derive(Debug, Clone, Copy)]
struct Node {
    id: usize,
    port: u16,
    controller_port: u16,
}

impl KafkaBroker {
    /// Starts one broker in `home` and waits until it answers.
    pub async fn start(home: &Home, libs: &KafkaLibs) -> Result<Self> {
        Self::start_with(home, libs, &Beside::default()).await
    }

    /// [`Self::start`] with more listeners.
    pub async fn start_with(home: &Home, libs: &KafkaLibs, beside: &Beside) -> Result<Self> {
        let mut brokers = Self::start_all(home, libs, 1, beside).await?;
        brokers.pop().context("a cluster of one has a broker")
    }

    /// Starts a cluster of `size` brokers, internal topics replicated to up to three, and waits until each
    /// sees all of them.
    pub async fn start_cluster(home: &Home, libs: &KafkaLibs, size: usize) -> Result<Vec<Self>> {
        Self::start_all(home, libs, size, &Beside::default()).await
    }

    async fn start_all(home: &Home, libs: &KafkaLibs, size: usize, beside: &Beside) -> Result<Vec<Self>> {
        let nodes = (1..=size)
            .map(|id| {
                let port = home.port(&format!("kafka-{id}"))?;
                let controller_port = home.port(&format!("kafka-{id}-controller"))?;
                Ok(Node {
                    id,
                    port,
                    controller_port,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let cluster_id = cluster_id(&home.file("kafka.cluster-id"))?;
        let prepared = nodes
            .iter()
            .map(|node| Self::prepare(home, libs, *node, &nodes, &cluster_id, beside));
        let brokers = futures_util::future::try_join_all(prepared).await?;
        for broker in &brokers {
            broker.server.start()?;
        }
        for broker in &brokers {
            broker.answers().await?;
        }
        Ok(brokers)
    }

    async fn prepare(
        home: &Home,
        libs: &KafkaLibs,
        node: Node,
        nodes: &[Node],
        cluster_id: &str,
        beside: &Beside,
    ) -> Result<Self> {
        let name = format!("kafka-{}", node.id);
        let dir = home.dir(&name)?;
        let (properties, logging, data) = (dir.join("server.properties"), dir.join("log4j2.yaml"), dir.join("data"));
        let secured = match beside.security {
            Some(_) => Some((home.port(&format!("{name}-tls"))?, home.port(&format!("{name}-login"))?)),
            None => None,
        };
        let settings = server_properties(node, nodes, &data) + &listeners(node, beside, secured);
        fs::write(&properties, settings)?;
        fs::write(&logging, LOG4J2)?;
        if !data.join("meta.properties").exists() {
            let mut format = java(libs, &["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"], &logging);
            format
                .args(["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c"])
                .arg(&properties);
            process::run(format).await.context("cannot format Kafka's storage")?;
        }
        let (libs, temporary) = (libs.clone(), home.is_temporary());
        let server = Server::new("Kafka", home.file(&format!("{name}.log")), move || {
            let mut options = vec!["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC"];
            if temporary {
                // Starts sooner, and a server that lives for minutes never earns the better compiler.
                options.push("-XX:TieredStopAtLevel=1");
            }
            let mut command = java(&libs, &options, &logging);
            command.arg("kafka.Kafka").arg(&properties).current_dir(&dir);
            command
        });
        Ok(Self {
            server,
            port: node.port,
            secured,
            size: nodes.len(),
            _home: home.clone(),
        })
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`]: same port, same data.
    pub async fn restart(&self) -> Result<()> {
        self.server.start()?;
        self.answers().await
    }

    async fn answers(&self) -> Result<()> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.bootstrap())
            .create()?;
        let consumer = std::sync::Arc::new(consumer);
        self.server
            .ready(START_BOUND, || async {
                let consumer = consumer.clone();
                let size = self.size;
                let seen = tokio::task::spawn_blocking(move || {
                    let metadata = consumer.fetch_metadata(None, Duration::from_secs(1));
                    metadata.is_ok_and(|metadata| metadata.brokers().len() >= size)
                });
                seen.await.unwrap_or(false)
            })
            .await
    }

    /// `host:port` of this broker; for a cluster, join several with commas.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of the listener that speaks TLS.
    ///
    /// # Panics
    /// If it was started without [`Beside::security`].
    pub fn tls_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.secured.expect("a secured broker").0)
    }

    /// `host:port` of the listener that speaks TLS and asks for a login.
    ///
    /// # Panics
    /// If it was started without [`Beside::security`].
    pub fn login_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.secured.expect("a secured broker").1)
    }

    /// Stops it: leaderships are handed over, logs closed.
    pub async fn stop(&self) -> Result<()> {
        self.server.stop(Signal::SIGTERM, STOP_BOUND).await
    }

    /// Kills it with SIGKILL.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Stops it where it is: connections stay open, nothing answers.
    pub fn freeze(&self) {
        self.server.freeze();
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) {
        self.server.thaw();
    }
}

/// Makes a topic, replicated to up to three brokers; one that is there already is left as it is. `settings`
/// are the topic's, such as `max.message.bytes`.
pub async fn create_topic(bootstrap: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .context("cannot make a Kafka client")?;
    let options = AdminOptions::new()
        .operation_timeout(Some(REQUEST_BOUND))
        .request_timeout(Some(REQUEST_BOUND));
    let replicas = bootstrap.split(',').count().min(3) as i32;
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
    for (key, value) in settings {
        topic = topic.set(key, value);
    }
    let results = admin
        .create_topics([&topic], &options)
        .await
        .context("cannot ask Kafka for a topic")?;
    match results.into_iter().next() {
        Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => bail!("Kafka refuses to make the topic {name}: {code}"),
        None => bail!("Kafka said nothing about the topic {name}"),
    }
}

fn java(libs: &KafkaLibs, options: &[&str], logging: &Path) -> Command {
    let mut command = Command::new(&libs.java);
    command.args(options).arg("-cp").arg(libs.jars.join("*"));
    command.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
    command
}

fn listeners(node: Node, beside: &Beside, secured: Option<(u16, u16)>) -> String {
    let at = |name: &str, port: u16| format!("{name}://127.0.0.1:{port}");
    let mut listening = vec![at("PLAINTEXT", node.port)];
    let mut advertised = listening.clone();
    if let Some((tls, login)) = secured {
        listening.extend([at("SSL", tls), at("SASL_SSL", login)]);
        advertised.clone_from(&listening);
    }
    let mut protocols = String::new();
    for (number, (port, proxy)) in beside.proxied.iter().enumerate() {
        let name = format!("PROXIED{number}");
        listening.push(at(&name, *port));
        advertised.push(at(&name, *proxy));
        protocols.extend([",", &name, ":PLAINTEXT"]);
    }
    listening.push(at("CONTROLLER", node.controller_port));
    format!(
        "listeners={}
advertised.listeners={}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL{protocols}
{}",
        listening.join(","),
        advertised.join(","),
        beside.security.as_ref().map(security_properties).unwrap_or_default()
    )
}

fn security_properties(security: &Security) -> String {
    let Security {
        certificate,
        key,
        user,
        password,
    } = security;
    // One line each: a line's end is written as an escape.
    let line = |pem: &str| pem.trim().replace("\r\n", "\n").replace('\n', "\\n");
    format!(
        "ssl.keystore.type=PEM
ssl.keystore.certificate.chain={}
ssl.keystore.key={}
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}=\"{password}\";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
",
        line(certificate),
        line(key)
    )
}

fn server_properties(node: Node, nodes: &[Node], data: &Path) -> String {
    let voters: Vec<_> = nodes
        .iter()
        .map(|n| format!("{}@127.0.0.1:{}", n.id, n.controller_port))
        .collect();
    let voters = voters.join(",");
    let replicas = nodes.len().min(3);
    let in_sync = if replicas == 3 { 2 } else { 1 };
    let id = node.id;
    let data = data.display();
    format!(
        "process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
"
    )
}

/// Of a new cluster a random one, which is remembered: 16 bytes in base64url without padding.
fn cluster_id(remembered: &Path) -> Result<String> {
    if let Ok(id) = fs::read_to_string(remembered) {
        return Ok(id);
    }
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut id: String = (0..21)
        .map(|_| alphabet[rand::random_range(0..alphabet.len())] as char)
        .collect();
    // The last digit carries two bits only.
    id.push('A');
    fs::write(remembered, &id)?;
    Ok(id)
}

const LOG4J2: &str = "\
Configuration:
  Appenders:
    Console:
      name: stdout
      PatternLayout:
        pattern: '[%d] %p %m (%c)%n'
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        ref: stdout
";
