//! The directory of finished jobs. A job's pictures and its answer appear in it all at once, under their final
//! name, and are never written again: that is what makes a repeated request harmless.
//!
//! ```text
//! ROOT/{jobId}/simple.png  fancy.png  trendy.png  result.json  event-id
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use crate::messages::{Image, ImageJobResult, ImageStyle, ResultStatus};

/// The answer of a job, as it was sent.
const RESULT: &str = "result.json";
/// The `ce_id` that the answer is for.
const EVENT_ID: &str = "event-id";
/// In front of the name of what is not finished.
const MAKING: &str = ".making-";
/// What a killed worker left unfinished is removed when it is so old.
const ABANDONED: Duration = Duration::from_hours(1);

/// Finished jobs. All calls block.
#[derive(Debug, Clone)]
pub struct Gallery {
    root: PathBuf,
    public_url: String,
}

/// What was made for a job: the pictures, or why there are none, in words for the owner.
pub type Made = Result<Vec<(ImageStyle, Vec<u8>)>, String>;

impl Gallery {
    /// Makes the directory, and removes what killed workers left unfinished in it. `public_url` is where
    /// `root` is served.
    pub fn open(root: PathBuf, public_url: &str) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        let gallery = Self {
            root,
            public_url: public_url.trim_end_matches('/').to_owned(),
        };
        for entry in fs::read_dir(&gallery.root)? {
            let entry = entry?;
            let changed = entry
                .metadata()
                .and_then(|m| m.modified())
                .unwrap_or_else(|_| SystemTime::now());
            let is_abandoned = changed.elapsed().is_ok_and(|age| age > ABANDONED);
            if is_abandoned && entry.file_name().to_string_lossy().starts_with(MAKING) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(gallery)
    }

    /// The answer of a finished job.
    pub fn find(&self, job_id: Uuid) -> io::Result<Option<ImageJobResult>> {
        match fs::read(self.directory(job_id).join(RESULT)) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps what was made, on the disk when this returns, and gives the job's answer. Whoever comes second
    /// is given the first one's.
    pub fn keep(&self, event_id: Uuid, job_id: Uuid, made: &Made) -> io::Result<ImageJobResult> {
        let result = self.result(job_id, made);
        let unfinished = self.root.join(format!("{MAKING}{job_id}-{}", Uuid::new_v4()));
        let kept = write(&unfinished, event_id, &result, made).and_then(|()| {
            // Fails when there is such a directory that is not empty: the one moment that decides.
            fs::rename(&unfinished, self.directory(job_id))?;
            sync(&self.root)
        });
        let Err(error) = kept else { return Ok(result) };
        // Best effort: what stays is removed at a later start.
        let _ = fs::remove_dir_all(&unfinished);
        match self.find(job_id)? {
            Some(first) => Ok(first),
            None => Err(error),
        }
    }

    /// One picture as PNG; `None` if there is none.
    pub fn picture(&self, job_id: Uuid, style: ImageStyle) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.directory(job_id).join(file_name(style))) {
            Ok(png) => Ok(Some(png)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The newest jobs, at most `limit`: their ids are in the order of their acceptance.
    pub fn newest(&self, limit: usize) -> io::Result<Vec<Uuid>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            ids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<Uuid>().ok()));
        }
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.truncate(limit);
        Ok(ids)
    }

    fn directory(&self, job_id: Uuid) -> PathBuf {
        self.root.join(job_id.to_string())
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

/// Of a picture, in its job's directory and in its URL.
pub fn file_name(style: ImageStyle) -> String {
    format!("{}.png", style.slug())
}

fn write(directory: &Path, event_id: Uuid, result: &ImageJobResult, made: &Made) -> io::Result<()> {
    fs::create_dir(directory)?;
    for (style, png) in made.iter().flatten() {
        write_through(&directory.join(file_name(*style)), png)?;
    }
    write_through(&directory.join(EVENT_ID), event_id.to_string().as_bytes())?;
    write_through(&directory.join(RESULT), &serde_json::to_vec(result)?)?;
    sync(directory)
}

fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

fn sync(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures() -> Vec<(ImageStyle, Vec<u8>)> {
        ImageStyle::ALL
            .map(|style| (style, style.slug().as_bytes().to_vec()))
            .into()
    }

    #[test]
    fn the_first_answer_of_a_job_is_kept_and_given_to_whoever_comes_later() {
        let root = tempfile::tempdir().unwrap();
        let gallery = Gallery::open(root.path().join("new"), "http://pictures.example/").unwrap();
        let (event_id, job_id) = (Uuid::now_v7(), Uuid::now_v7());
        assert_eq!(gallery.find(job_id).unwrap(), None);

        let first = gallery.keep(event_id, job_id, &Ok(pictures())).unwrap();
        assert_eq!(
            first.images[2].url,
            format!("http://pictures.example/{job_id}/trendy.png")
        );
        assert_eq!(gallery.find(job_id).unwrap().as_ref(), Some(&first));
        assert_eq!(gallery.picture(job_id, ImageStyle::Fancy).unwrap().unwrap(), b"fancy");

        assert_eq!(gallery.keep(event_id, job_id, &Err("too late".into())).unwrap(), first);
        assert_eq!(gallery.newest(10).unwrap(), [job_id]);
        assert_eq!(
            fs::read_dir(&gallery.root).unwrap().count(),
            1,
            "nothing unfinished is left"
        );
    }

    #[test]
    fn what_a_killed_worker_left_is_removed_when_it_is_old() {
        let root = tempfile::tempdir().unwrap();
        let left = |name: &str, age: Duration| {
            let path = root.path().join(format!("{MAKING}{name}"));
            fs::create_dir(&path).unwrap();
            fs::File::open(&path)
                .unwrap()
                .set_modified(SystemTime::now() - age)
                .unwrap();
            path
        };
        let (old, new) = (left("old", 2 * ABANDONED), left("new", Duration::ZERO));
        Gallery::open(root.path().to_owned(), "http://pictures.example").unwrap();
        assert!(!old.exists() && new.exists());
    }
}
