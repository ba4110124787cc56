//! Where Apache Kafka's jars come from: an installation, or Maven Central once.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{find_on_path, is_program, process};

const VERSION: &str = "4.4.0";
const OLDEST_JAVA: u32 = 17;

/// A Java that runs Kafka's jars.
#[derive(Debug, Clone)]
pub struct KafkaLibs {
    pub(super) java: PathBuf,
    pub(super) jars: PathBuf,
}

impl KafkaLibs {
    /// The jars of `KAFKA_HOME`, else those in `cache`, which Maven fills the first time (43 MB). Any number
    /// of processes may do this at once. An error says what is missing and how to install it.
    pub async fn find(cache: &Path) -> Result<Self> {
        let java = find_java().await?;
        if let Some(installed) = std::env::var_os("KAFKA_HOME") {
            let jars = PathBuf::from(installed).join("libs");
            if !jars.is_dir() {
                bail!("KAFKA_HOME has no directory libs: {} is missing", jars.display());
            }
            return Ok(Self { java, jars });
        }
        let jars = cache.join(jars());
        if !jars.is_dir() {
            fetch(cache, &jars).await?;
        }
        Ok(Self {
            java,
            jars: jars.canonicalize()?,
        })
    }

    /// Java 17 or newer is here, so that a failure of [`Self::find`] is not for want of it.
    pub async fn java_is_here() -> bool {
        find_java().await.is_ok()
    }

    /// They are in `cache` already, or in `KAFKA_HOME`: nothing has to be fetched.
    pub fn are_here(cache: &Path) -> bool {
        std::env::var_os("KAFKA_HOME").is_some() || cache.join(jars()).is_dir()
    }

    /// A program of Kafka's, such as `org.apache.kafka.tools.consumer.ConsoleConsumer`, for its arguments to be added.
    pub fn tool(&self, class: &str) -> Command {
        let mut command = Command::new(&self.java);
        command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]);
        command.arg(self.jars.join("*")).arg(class);
        command
    }
}

/// The directory in the cache; another one whenever the list of jars changes.
fn jars() -> String {
    format!("kafka-{VERSION}-and-tools")
}

/// Fills `jars`, whole or not at all.
async fn fetch(cache: &Path, jars: &Path) -> Result<()> {
    let maven = find_on_path(&["mvn"])
        .context("Maven is missing, which fetches Apache Kafka's jars: on Debian, `apt-get install maven`")?;
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
    if jars.is_dir() {
        return Ok(());
    }
    let partial = cache.join("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir(&partial)?;
    fs::write(partial.join("pom.xml"), POM.replace("VERSION", VERSION))?;
    let mut command = Command::new(maven);
    command
        .current_dir(&partial)
        .args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
    command.arg("-DoutputDirectory=libs");
    process::run(command)
        .await
        .context("cannot fetch Apache Kafka's jars from Maven Central")?;
    fs::rename(partial.join("libs"), jars)?;
    fs::remove_dir_all(&partial)?;
    drop(lock);
    Ok(())
}

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>dev-stack</groupId><artifactId>kafka-libs</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>VERSION</version></dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>VERSION</version>
      <exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>
    </dependency>
  </dependencies>
</project>
"#;

async fn find_java() -> Result<PathBuf> {
    let of_home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    let java = of_home
        .filter(|java| is_program(java))
        .or_else(|| find_on_path(&["java"]))
        .with_context(|| format!("Java {OLDEST_JAVA} or newer is missing, on which Kafka runs: {INSTALL_JAVA}"))?;
    let mut command = Command::new(&java);
    command.arg("--version");
    let printed = process::run(command).await.context("java --version does not work")?;
    match major_version(&printed) {
        Some(version) if version >= OLDEST_JAVA => Ok(java),
        _ => bail!("{} is older than Java {OLDEST_JAVA}: {INSTALL_JAVA}", java.display()),
    }
}

const INSTALL_JAVA: &str = "on Debian, `apt-get install default-jre-headless`";

/// Of `openjdk 17.0.15 2025-04-15`.
fn major_version(printed: &str) -> Option<u32> {
    let number = printed.split_whitespace().nth(1)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{jars, major_version};

    #[test]
    fn the_script_of_prerequisites_asks_for_no_maven_where_the_jars_are() {
        let script = include_str!("../../scripts/prerequisites");
        let looked_for = format!("[ -d .dev/kafka-libs/{} ] || has mvn || needs maven", jars());
        assert!(script.contains(&looked_for), "{looked_for}");
    }

    #[test]
    fn the_major_version_is_read_from_what_java_prints() {
        assert_eq!(major_version("openjdk 17.0.15 2025-04-15\nOpenJDK Runtime"), Some(17));
        assert_eq!(major_version("openjdk 21 2023-09-19"), Some(21));
        assert_eq!(major_version("java 25-ea 2025-09-16"), Some(25));
        assert_eq!(major_version(""), None);
    }
}
