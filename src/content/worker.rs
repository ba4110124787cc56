//! The loop: take a record, make its pictures, answer, and only then say that the record is done.
//!
//! A kill at any point repeats records, never loses one. A repeated request finds its answer in the
//! [`Gallery`] and has it sent again; its pictures are made once.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedMessage,
};
use tokio_util::sync::CancellationToken;

use super::{
    brief::Brief,
    design,
    gallery::{Gallery, GalleryError, Made},
    kafka::{Names, Sender, pauses},
    logo::Logos,
    request::{self, Request},
};
use crate::messages::{ImageJob, ImageJobResult, ImageStyle, ResultStatus};

/// Between two commits of offsets: what a kill can repeat beyond the records in work.
const COMMIT_EVERY: Duration = Duration::from_millis(250);

/// Everything that the loop works with.
pub struct Worker {
    names: Names,
    gallery: Gallery,
    logos: Logos,
    sender: Sender,
    /// Records in work at the same time.
    places: usize,
}

/// How the worker is told to end.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Take no more records; finish those in work.
    pub softly: CancellationToken,
    /// Leave them unfinished: another worker, or the next start, repeats them.
    pub at_once: CancellationToken,
}

/// What ends the worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Settings that librdkafka refuses, or a member that Kafka does not let in, such as a second worker of
    /// the same instance name.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
}

/// Where a record was.
struct Place {
    partition: i32,
    offset: i64,
}

impl Worker {
    /// Connects when it runs.
    pub fn new(names: Names, gallery: Gallery, logos: Logos, places: usize) -> Result<Self, WorkerError> {
        Ok(Self {
            sender: Sender::new(names.clone())?,
            names,
            gallery,
            logos,
            places: places.max(1),
        })
    }

    /// Works until it is told to stop.
    pub async fn run(self, stop: Stop) -> Result<(), WorkerError> {
        let consumer = self.names.consumer()?;
        let worker = Arc::new(self);
        let mut fatal = None;
        {
            let records = consumer
                .stream()
                .take_until(stop.softly.cancelled())
                .filter_map(async |taken| match taken {
                    Ok(record) => Some(Ok(record.detach())),
                    Err(error) if is_fatal(&consumer, &error) => Some(Err(error)),
                    Err(error) => {
                        tracing::warn!(%error, "kafka consumer");
                        None
                    }
                });
            // In the order in which they were taken: when one is done, so are all before it.
            let mut done = Box::pin(
                records
                    .map(|record| worker.clone().settle(record, stop.at_once.clone()))
                    .buffered(worker.places),
            );
            let mut commits = tokio::time::interval(COMMIT_EVERY);
            loop {
                tokio::select! {
                    settled = done.next() => match settled {
                        Some(Ok(Some(place))) => worker.store(&consumer, &place),
                        // Left unfinished: nothing after it may be stored.
                        Some(Ok(None)) | None => break,
                        Some(Err(error)) => {
                            fatal = Some(error);
                            break;
                        }
                    },
                    _ = commits.tick() => commit(&consumer, CommitMode::Async),
                }
            }
        }
        commit(&consumer, CommitMode::Sync);
        fatal.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Does what one record asks for; `None` when it was left unfinished.
    async fn settle(
        self: Arc<Self>,
        record: Result<OwnedMessage, KafkaError>,
        give_up: CancellationToken,
    ) -> Result<Option<Place>, KafkaError> {
        let record = record?;
        let place = Place {
            partition: record.partition(),
            offset: record.offset(),
        };
        let work = async {
            match request::read(&record) {
                Ok(request) => self.answer(request).await,
                Err(why) => {
                    let Place { partition, offset } = place;
                    tracing::warn!(partition, offset, %why, "an unreadable record is put aside");
                    self.sender.put_aside(&record, &why.to_string()).await;
                }
            }
        };
        Ok(give_up.run_until_cancelled(work).await.map(|()| place))
    }

    /// PROCESSING, then the final answer; of a repeated request the final answer alone.
    async fn answer(&self, request: Request) {
        let Request { event_id, job } = request;
        let job_id = job.job_id;
        let earlier = keep_trying(async || self.gallery.find(job_id).await).await;
        let result = if let Some(earlier) = earlier {
            let answered = keep_trying(async || self.gallery.event_id(job_id).await).await;
            if answered.is_some_and(|answered| answered != event_id) {
                tracing::warn!(%job_id, %event_id, ?answered, "the job was answered for another ce_id, and stays as it is");
            }
            earlier
        } else {
            let begun = ImageJobResult {
                job_id,
                status: ResultStatus::Processing,
                images: Vec::new(),
                error: None,
            };
            self.sender.answer(&begun).await;
            let made = self.make(job).await;
            keep_trying(async || self.gallery.keep(event_id, job_id, &made).await).await
        };
        self.sender.answer(&result).await;
        tracing::info!(%job_id, status = result.status.as_str(), "answered");
    }

    /// The pictures of a job, or why there are none. A fault of a design fails this job, and not the worker.
    async fn make(&self, job: ImageJob) -> Made {
        let mut brief = Brief::new(&job).map_err(|why| why.to_string())?;
        brief.logo = match &job.logo_url {
            Some(url) => self.logos.fetch(url).await,
            None => None,
        };
        let job_id = job.job_id;
        let draw = move || {
            let picture = |style| match design::scene(&brief, style).png() {
                Ok(png) => Ok((style, png)),
                Err(error) => {
                    tracing::error!(%error, %job_id, ?style, "a picture could not be drawn");
                    Err(FAULT.to_owned())
                }
            };
            ImageStyle::ALL.into_iter().map(picture).collect()
        };
        tokio::task::spawn_blocking(draw).await.unwrap_or_else(|panic| {
            tracing::error!(%panic, "a design has panicked");
            Err(FAULT.to_owned())
        })
    }

    fn store(&self, consumer: &StreamConsumer, place: &Place) {
        let mut next = TopicPartitionList::new();
        let stored = next
            .add_partition_offset(&self.names.topic, place.partition, Offset::Offset(place.offset + 1))
            .and_then(|()| consumer.store_offsets(&next));
        if let Err(error) = stored {
            // The partition went to another worker meanwhile, which repeats the record.
            tracing::debug!(%error, partition = place.partition, "an offset is not ours to store any more");
        }
    }
}

/// Commits what was stored since the last time, if anything was.
fn commit(consumer: &StreamConsumer, mode: CommitMode) {
    match consumer.commit_consumer_state(mode) {
        Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
        Err(error) => tracing::warn!(%error, "offsets were not committed; what they stand for may be repeated"),
    }
}

fn is_fatal(consumer: &StreamConsumer, error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) || consumer.client().fatal_error().is_some()
}

/// Tries until the store does it: a full disk, or a bucket out of reach, is nothing that a job has done.
async fn keep_trying<T>(action: impl AsyncFn() -> Result<T, GalleryError>) -> T {
    let mut pauses = pauses();
    loop {
        match action().await {
            Ok(done) => return done,
            Err(error) => tracing::warn!(%error, "the pictures cannot be kept now; trying again"),
        }
        tokio::time::sleep(pauses.next().unwrap_or_default()).await;
    }
}

/// What an owner is told of a fault that is ours.
const FAULT: &str = "the images could not be drawn";
