//! What is kept of finished jobs, in a directory or in a bucket of S3-compatible storage: the pictures, and the
//! answer.
//!
//! ```text
//! {jobId}/simple.png  fancy.png  trendy.png  event-id  result.json
//! ```
//!
//! Each object is created once and never written again. `result.json` comes last, and whoever creates it decides
//! what the job's answer is: that is what makes a repeated request harmless, whichever worker it comes to. A kill
//! in between leaves pictures without an answer; the next attempt keeps those that are there and adds the others.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use futures_util::StreamExt as _;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload, RetryConfig, aws::AmazonS3Builder,
    local::LocalFileSystem, path::Path, prefix::PrefixStore,
};
use uuid::Uuid;

use crate::messages::{Image, ImageJobResult, ImageStyle, ResultStatus};

/// The answer of a job, as it was sent.
const RESULT: &str = "result.json";
/// The `ce_id` that the answer is for.
const EVENT_ID: &str = "event-id";
/// For one request to a bucket, and again for what the client itself repeats. Whoever asks for more tries again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Objects that are listed to find the newest jobs, at most.
const MOST_LISTED: usize = 10_000;

/// Finished jobs. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Gallery {
    store: Arc<dyn ObjectStore>,
    public_url: Arc<str>,
}

/// What was made for a job: the pictures, or why there are none, in words for the owner.
pub type Made = Result<Vec<(ImageStyle, Vec<u8>)>, String>;

/// Where pictures are kept. What is not said here of a bucket is AWS's own to say: `AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY`, `AWS_REGION` and the others, or the machine's role.
#[derive(Debug, Clone)]
pub enum Place {
    /// Made when it is not there.
    Directory(PathBuf),
    /// S3, or what speaks as S3 does, conditional writes (`If-None-Match: *`) included. The bucket has to exist.
    Bucket {
        /// Its name.
        name: String,
        /// In front of all keys, without slashes at its ends; empty for none.
        prefix: String,
        /// Where S3-compatible storage is, such as `http://minio:9000`; AWS when it is not given.
        endpoint: Option<String>,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Bucket { name, prefix, .. } => write!(f, "s3://{name}/{prefix}"),
        }
    }
}

/// Something is wrong with the place.
#[derive(Debug, thiserror::Error)]
pub enum GalleryError {
    /// The directory cannot be made.
    #[error("the directory cannot be made: {0}")]
    Directory(#[from] io::Error),
    /// The store says so, or cannot be reached.
    #[error(transparent)]
    Store(#[from] object_store::Error),
    /// What is kept is no answer.
    #[error("an answer that was kept cannot be read: {0}")]
    Answer(#[from] serde_json::Error),
}

impl Gallery {
    /// Makes a directory that is not there; a bucket is not asked for before it is used. `public_url` is where
    /// clients reach what is kept.
    pub fn open(place: &Place, public_url: &str) -> Result<Self, GalleryError> {
        let store: Arc<dyn ObjectStore> = match place {
            Place::Directory(root) => {
                std::fs::create_dir_all(root)?;
                // An answer is sent only when it and its pictures are on the disk.
                Arc::new(LocalFileSystem::new_with_prefix(root)?.with_fsync(true))
            }
            Place::Bucket { name, prefix, endpoint } => {
                let mut builder = AmazonS3Builder::from_env().with_bucket_name(name);
                let mut options = ClientOptions::new()
                    .with_timeout(REQUEST_TIMEOUT)
                    .with_content_type_for_suffix("png", "image/png")
                    .with_content_type_for_suffix("json", "application/json");
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint);
                    options = options.with_allow_http(endpoint.starts_with("http://"));
                }
                let retry = RetryConfig {
                    max_retries: 2,
                    retry_timeout: REQUEST_TIMEOUT,
                    ..RetryConfig::default()
                };
                let bucket = builder.with_client_options(options).with_retry(retry).build()?;
                Arc::new(PrefixStore::new(bucket, prefix.trim_matches('/')))
            }
        };
        Ok(Self {
            store,
            public_url: public_url.trim_end_matches('/').into(),
        })
    }

    /// The answer of a finished job.
    pub async fn find(&self, job_id: Uuid) -> Result<Option<ImageJobResult>, GalleryError> {
        match self.get(job_id, RESULT).await? {
            Some(json) => Ok(Some(serde_json::from_slice(&json)?)),
            None => Ok(None),
        }
    }

    /// The `ce_id` of the request that a finished job's answer is for.
    pub async fn event_id(&self, job_id: Uuid) -> Result<Option<Uuid>, GalleryError> {
        let text = self.get(job_id, EVENT_ID).await?;
        Ok(text.and_then(|text| Uuid::try_parse_ascii(&text).ok()))
    }

    /// Keeps what was made, safely when this returns, and gives the job's answer. Whoever comes second is given
    /// the first one's.
    pub async fn keep(&self, event_id: Uuid, job_id: Uuid, made: &Made) -> Result<ImageJobResult, GalleryError> {
        for (style, png) in made.iter().flatten() {
            self.create(job_id, &file_name(*style), png.clone()).await?;
        }
        self.create(job_id, EVENT_ID, event_id.to_string().into_bytes()).await?;
        let result = self.result(job_id, made);
        if self.create(job_id, RESULT, serde_json::to_vec(&result)?).await? {
            return Ok(result);
        }
        Ok(self.find(job_id).await?.unwrap_or(result))
    }

    /// One picture as PNG; `None` if there is none.
    pub async fn picture(&self, job_id: Uuid, style: ImageStyle) -> Result<Option<Vec<u8>>, GalleryError> {
        self.get(job_id, &file_name(style)).await
    }

    /// The newest finished jobs, at most `limit`: their ids are in the order of their acceptance. Looks back an
    /// hour, a day, a month, until there are enough of them.
    pub async fn newest(&self, limit: usize) -> Result<Vec<Uuid>, GalleryError> {
        let mut ids = Vec::new();
        for hours in [1, 24, 24 * 30] {
            let begin = (Utc::now() - TimeDelta::hours(hours)).timestamp_millis();
            let begin = uuid::Builder::from_unix_timestamp_millis(begin.max(0) as u64, &[0; 10]).into_uuid();
            let listed = self.store.list_with_offset(None, &Path::from(begin.to_string()));
            let mut listed = listed.take(MOST_LISTED);
            ids.clear();
            while let Some(object) = listed.next().await {
                let key = object?.location;
                let mut parts = key.parts();
                if let (Some(id), Some(name)) = (parts.next(), parts.next())
                    && name.as_ref() == RESULT
                {
                    ids.extend(id.as_ref().parse::<Uuid>().ok());
                }
            }
            if ids.len() >= limit {
                break;
            }
        }
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.truncate(limit);
        Ok(ids)
    }

    async fn get(&self, job_id: Uuid, name: &str) -> Result<Option<Vec<u8>>, GalleryError> {
        match self.store.get(&key(job_id, name)).await {
            Ok(object) => Ok(Some(object.bytes().await?.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// False: there is one, which stays as it is.
    async fn create(&self, job_id: Uuid, name: &str, bytes: Vec<u8>) -> Result<bool, GalleryError> {
        let payload = PutPayload::from(bytes);
        match self
            .store
            .put_opts(&key(job_id, name), payload, PutMode::Create.into())
            .await
        {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn result(&self, job_id: Uuid, made: &Made) -> ImageJobResult {
        let image = |style: ImageStyle| Image {
            style,
            url: format!("{}/{job_id}/{}", self.public_url, file_name(style)),
        };
        match made {
            Ok(pictures) => ImageJobResult {
                job_id,
                status: ResultStatus::Completed,
                images: pictures.iter().map(|(style, _)| image(*style)).collect(),
                error: None,
            },
            Err(reason) => ImageJobResult {
                job_id,
                status: ResultStatus::Failed,
                images: Vec::new(),
                error: Some(reason.clone()),
            },
        }
    }
}

/// Of a picture, in its key and in its URL.
pub fn file_name(style: ImageStyle) -> String {
    format!("{}.png", style.slug())
}

fn key(job_id: Uuid, name: &str) -> Path {
    Path::from_iter([&job_id.to_string(), name])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(text: &str) -> Vec<(ImageStyle, Vec<u8>)> {
        let picture = |style: ImageStyle| (style, format!("{text} {}", style.slug()).into_bytes());
        ImageStyle::ALL.map(picture).into()
    }

    #[tokio::test]
    async fn the_first_answer_of_a_job_is_kept_and_given_to_whoever_comes_later() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::Directory(root.path().join("new"));
        let gallery = Gallery::open(&place, "http://pictures.example/").unwrap();
        let (event_id, job_id) = (Uuid::now_v7(), Uuid::now_v7());
        assert_eq!(gallery.find(job_id).await.unwrap(), None);

        let first = gallery.keep(event_id, job_id, &Ok(pictures("first"))).await.unwrap();
        assert_eq!(
            first.images[2].url,
            format!("http://pictures.example/{job_id}/trendy.png")
        );
        assert_eq!(gallery.find(job_id).await.unwrap().as_ref(), Some(&first));
        assert_eq!(gallery.event_id(job_id).await.unwrap(), Some(event_id));
        let late: Made = Err("too late".into());
        for made in [&Ok(pictures("second")), &late] {
            assert_eq!(gallery.keep(Uuid::now_v7(), job_id, made).await.unwrap(), first);
        }
        let fancy = gallery.picture(job_id, ImageStyle::Fancy).await.unwrap();
        assert_eq!(fancy.unwrap(), b"first fancy");
        assert_eq!(gallery.event_id(job_id).await.unwrap(), Some(event_id));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_who_finish_a_job_at_once_one_decides() {
        let root = tempfile::tempdir().unwrap();
        let gallery = Gallery::open(&Place::Directory(root.path().into()), "http://pictures.example").unwrap();
        let job_id = Uuid::now_v7();
        let finish = (0..16).map(|n| {
            let gallery = gallery.clone();
            let made: Made = Err(format!("reason {n}"));
            tokio::spawn(async move { gallery.keep(Uuid::nil(), job_id, &made).await.unwrap() })
        });
        let answers = futures_util::future::join_all(finish.collect::<Vec<_>>()).await;
        let kept = gallery.find(job_id).await.unwrap().unwrap();
        assert!(answers.into_iter().all(|answer| answer.unwrap() == kept));
    }

    #[tokio::test]
    async fn the_newest_jobs_are_those_that_were_accepted_last() {
        let root = tempfile::tempdir().unwrap();
        let gallery = Gallery::open(&Place::Directory(root.path().into()), "http://pictures.example").unwrap();
        let mut jobs = Vec::new();
        for hours in [0, 2, 3, 48, 24 * 365] {
            let at = (Utc::now() - TimeDelta::hours(hours)).timestamp_millis() as u64;
            let job_id = uuid::Builder::from_unix_timestamp_millis(at, &[7; 10]).into_uuid();
            gallery.keep(Uuid::nil(), job_id, &Err("no ink".into())).await.unwrap();
            jobs.push(job_id);
        }
        assert_eq!(gallery.newest(1).await.unwrap(), jobs[..1]);
        assert_eq!(gallery.newest(3).await.unwrap(), jobs[..3]);
        assert_eq!(gallery.newest(9).await.unwrap(), jobs[..4], "not older than a month");
    }
}
