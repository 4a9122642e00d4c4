//! Uploads: content that comes in one request or in many, in order, and is named by its digest in the end.
//!
//! ```text
//! POST   …/blobs/uploads/              begins one; with `mount` takes content of another repository; with `digest` takes the body at once
//! PATCH  …/blobs/uploads/ID            the next bytes
//! GET    …/blobs/uploads/ID            how far it is
//! PUT    …/blobs/uploads/ID?digest=…   the last bytes, and what it must be
//! DELETE …/blobs/uploads/ID            gives it up
//! ```
//!
//! What is under way lies in the store without a name and counts against its quota. It ends with the process; a client begins
//! again then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};

use super::address::UploadId;
use super::error::{Code, RegistryError};
use super::{Asked, BASE, Registry, digest_header, drain, reader, text_header};
use crate::blobs::{Added, BlobError, Intake};
use crate::engine::images::name::{Algorithm, Hasher, OciDigest, Repository};
use crate::engine::images::{Answer, Command, Content};

/// Uploads under way at once. At the bound the one that was idle for longest ends, when that is longer than [`IDLE_MIN`];
/// otherwise a new one is refused.
const UPLOADS_MAX: usize = 64;
/// An upload that nobody went on with for so long ends.
const IDLE_MAX: Duration = Duration::from_secs(15 * 60);
/// An upload is not ended for another one before it was idle for so long.
const IDLE_MIN: Duration = Duration::from_secs(60);
/// Pause between two looks for uploads that nobody goes on with.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// How long a request waits for another one on the same upload, such as one whose connection broke.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// The uploads under way.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    all: Mutex<BTreeMap<UploadId, Arc<Upload>>>,
}

#[derive(Debug)]
struct Upload {
    repository: Repository,
    used: Mutex<Instant>,
    session: Arc<AsyncMutex<Option<Session>>>,
}

/// What came so far.
#[derive(Debug)]
struct Session {
    intake: Intake,
    hasher: Hasher,
}

/// A session while a request works on it; gone from its place when the request has taken it.
type Turn = OwnedMutexGuard<Option<Session>>;

impl Upload {
    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Since when nobody has worked on it; none when somebody does.
    fn idle(&self) -> Option<Duration> {
        let _turn = self.session.try_lock().ok()?;
        Some(self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed())
    }
}

impl Uploads {
    /// Ends uploads that nobody goes on with, until the server stops.
    pub(super) async fn expire_until(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let mut due = tokio::time::interval(EXPIRE_EVERY);
        loop {
            tokio::select! {
                // A closed channel means stop as well.
                _ = stopping.wait_for(|stop| *stop) => return,
                _ = due.tick() => self.expire(IDLE_MAX),
            }
        }
    }

    fn expire(&self, limit: Duration) {
        self.with(|all| all.retain(|_, upload| upload.idle().is_none_or(|idle| idle < limit)));
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<UploadId, Arc<Upload>>) -> T) -> T {
        change(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn insert(&self, id: UploadId, upload: Upload) -> Result<(), RegistryError> {
        self.with(|all| {
            if all.len() >= UPLOADS_MAX {
                let idle = all.iter().filter_map(|(id, upload)| Some((upload.idle()?, *id))).max();
                match idle {
                    Some((idle, oldest)) if idle >= IDLE_MIN => all.remove(&oldest),
                    _ => {
                        let message = format!(
                            "{UPLOADS_MAX} uploads are under way, no more are taken: wait for one"
                        );
                        return Err(RegistryError::new(Code::TooManyRequests, message)
                            .with_header(header::RETRY_AFTER, HeaderValue::from_static("60")));
                    }
                };
            }
            all.insert(id, Arc::new(upload));
            Ok(())
        })
    }

    fn find(&self, repository: &Repository, id: UploadId) -> Result<Arc<Upload>, RegistryError> {
        let found = self.with(|all| all.get(&id).cloned());
        found.filter(|upload| upload.repository == *repository).ok_or_else(unknown)
    }

    /// The upload, when no other request works on it any more.
    async fn turn(
        &self,
        repository: &Repository,
        id: UploadId,
    ) -> Result<(Arc<Upload>, Turn), RegistryError> {
        let upload = self.find(repository, id)?;
        let session = Arc::clone(&upload.session);
        let turn =
            tokio::time::timeout(TURN_TIMEOUT, session.lock_owned()).await.map_err(|_| {
                let message = "another request works on this upload: wait for its end";
                RegistryError::new(Code::UploadInvalid, message).with_status(StatusCode::CONFLICT)
            })?;
        upload.touch();
        Ok((upload, turn))
    }
}

fn unknown() -> RegistryError {
    RegistryError::new(
        Code::UploadUnknown,
        "there is no such upload, or it was idle for too long: begin again",
    )
}

impl Session {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.intake.write(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Names the content, when it is what it should be. Blocks.
    fn finish(self, said: OciDigest) -> Result<Result<Added, OciDigest>, BlobError> {
        let Self { intake, mut hasher } = self;
        if hasher.algorithm() != said.algorithm() {
            // Nobody said so at the beginning: it is read once more.
            hasher = Hasher::new(said.algorithm());
            let mut writer = Feed(&mut hasher);
            std::io::copy(&mut intake.reader(), &mut writer)
                .map_err(|source| BlobError::Stream { received: intake.size(), source })?;
        }
        let found = hasher.finish();
        if found == said { intake.finish().map(Ok) } else { Ok(Err(found)) }
    }
}

struct Feed<'a>(&'a mut Hasher);

impl std::io::Write for Feed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Registry {
    pub(super) async fn begin_upload(
        &self,
        repository: Repository,
        asked: &Asked,
        body: Body,
    ) -> Result<Response, RegistryError> {
        if let Some(digest) = asked.param("mount") {
            let digest = digest.parse()?;
            let from = asked.param("from").map(str::parse).transpose()?;
            if self.mount(&repository, digest, from).await? {
                return Ok(created(&repository, &digest));
            }
            // The specification: what cannot be mounted is uploaded.
        }
        let algorithm = asked.param("digest-algorithm").map(|word| {
            Algorithm::from_word(word).ok_or_else(|| {
                let message = "`digest-algorithm` is sha256 or sha512";
                RegistryError::new(Code::DigestInvalid, message)
            })
        });
        let said = asked.param("digest").map(str::parse::<OciDigest>).transpose()?;
        let algorithm = match said {
            Some(digest) => digest.algorithm(),
            None => algorithm.transpose()?.unwrap_or_default(),
        };
        let intake = self.api.handle.blobs().intake().await?;
        let session = Session { intake, hasher: Hasher::new(algorithm) };
        if let Some(said) = said {
            let turn = Arc::new(AsyncMutex::new(Some(session))).lock_owned().await;
            let turn = self.take_in(turn, asked, body).await?;
            return self.finish(repository, turn, said).await;
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| {
            let message = format!("the operating system gives no random bytes: {error}");
            RegistryError::new(Code::Unknown, message)
        })?;
        let id = UploadId::from_bytes(id);
        let session = Arc::new(AsyncMutex::new(Some(session)));
        let upload =
            Upload { repository: repository.clone(), used: Mutex::new(Instant::now()), session };
        self.uploads.insert(id, upload)?;
        Ok(state(StatusCode::ACCEPTED, &repository, id, 0))
    }

    /// Takes content of another repository, when it is there and on disk.
    async fn mount(
        &self,
        repository: &Repository,
        digest: OciDigest,
        from: Option<Repository>,
    ) -> Result<bool, RegistryError> {
        let mount = Command::Mount { repository: repository.clone(), digest, from };
        match self.api.handle.image(mount).await? {
            Answer::Contents(found) if found.iter().any(Option::is_some) => {
                let found = self.api.handle.image_contents(repository, vec![digest]).await?;
                Ok(found.iter().any(Option::is_some))
            }
            _ => Ok(false),
        }
    }

    pub(super) async fn look_upload(
        &self,
        repository: &Repository,
        id: UploadId,
    ) -> Result<Response, RegistryError> {
        let (_, turn) = self.uploads.turn(repository, id).await?;
        let size = turn.as_ref().ok_or_else(unknown)?.intake.size();
        Ok(state(StatusCode::NO_CONTENT, repository, id, size))
    }

    pub(super) fn cancel_upload(
        &self,
        repository: &Repository,
        id: UploadId,
    ) -> Result<Response, RegistryError> {
        self.uploads.find(repository, id)?;
        self.uploads.with(|all| all.remove(&id));
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    pub(super) async fn add_to_upload(
        &self,
        repository: &Repository,
        id: UploadId,
        asked: &Asked,
        body: Body,
    ) -> Result<Response, RegistryError> {
        let (upload, turn) = self.uploads.turn(repository, id).await?;
        let turn = self.next_bytes(repository, id, turn, (asked, body)).await?;
        upload.touch();
        let size = turn.as_ref().ok_or_else(unknown)?.intake.size();
        Ok(state(StatusCode::ACCEPTED, repository, id, size))
    }

    pub(super) async fn end_upload(
        &self,
        repository: Repository,
        id: UploadId,
        asked: &Asked,
        body: Body,
    ) -> Result<Response, RegistryError> {
        let said = asked.param("digest").ok_or_else(|| {
            let message = "an upload ends with `?digest=` and the digest of the whole content";
            RegistryError::new(Code::DigestInvalid, message)
        })?;
        let said: OciDigest = said.parse()?;
        let (_, turn) = self.uploads.turn(&repository, id).await?;
        let turn = self.next_bytes(&repository, id, turn, (asked, body)).await?;
        self.uploads.with(|all| all.remove(&id));
        self.finish(repository, turn, said).await
    }

    /// Takes the body in at the end of what came before, where it says that it belongs.
    async fn next_bytes(
        &self,
        repository: &Repository,
        id: UploadId,
        turn: Turn,
        (asked, body): (&Asked, Body),
    ) -> Result<Turn, RegistryError> {
        let size = turn.as_ref().ok_or_else(unknown)?.intake.size();
        if let Some(range) = asked.header(&header::CONTENT_RANGE)
            && let Err(mut error) = check_range(range, size, asked.length())
        {
            drop(turn);
            for (name, value) in position(repository, id, size) {
                error = error.with_header(name, value);
            }
            drain(&mut reader(body)).await;
            return Err(error);
        }
        let taken = self.take_in(turn, asked, body).await;
        if taken.as_ref().is_err_and(|error| !error.is_broken_off()) {
            // Nobody can go on with it, and it would hold its room.
            self.uploads.with(|all| all.remove(&id));
        }
        taken
    }

    async fn take_in(&self, turn: Turn, asked: &Asked, body: Body) -> Result<Turn, RegistryError> {
        let blobs = self.api.handle.blobs();
        if let Some(length) = asked.length()
            && let Err(error) = blobs.make_room(length).await
        {
            drain(&mut reader(body)).await;
            return Err(error.into());
        }
        let mut stream = reader(body);
        let take = |turn: &mut Turn, bytes: &[u8]| match turn.as_mut() {
            Some(session) => session.write(bytes),
            None => Err(BlobError::Stopped),
        };
        match blobs.feed(&mut stream, turn, take).await {
            Ok(turn) => Ok(turn),
            Err(error) => {
                drain(&mut stream).await;
                Err(error.into())
            }
        }
    }

    /// Names what came, and tells the engine; then the answer is a promise.
    async fn finish(
        &self,
        repository: Repository,
        mut turn: Turn,
        said: OciDigest,
    ) -> Result<Response, RegistryError> {
        let session = turn.take().ok_or_else(unknown)?;
        let added = match self.api.handle.blobs().blocking(move || session.finish(said)).await? {
            Ok(added) => added,
            Err(found) => {
                let message = format!("what was sent as {said} is {found}: send it again");
                return Err(RegistryError::new(Code::DigestInvalid, message));
            }
        };
        let content = Content { digest: added.digest, size: added.size };
        let add = Command::Add { repository: repository.clone(), digest: said, content };
        self.api.handle.image(add).await?;
        Ok(created(&repository, &said))
    }
}

/// Whether the bytes begin where the ones before ended, and are as many as said.
fn check_range(text: &str, size: u64, length: Option<u64>) -> Result<(), RegistryError> {
    // Docker's older clients write a unit in front.
    let range = text.strip_prefix("bytes ").unwrap_or(text);
    let range = range.split('/').next().unwrap_or(range);
    let numbers = range.split_once('-').and_then(|(from, last)| {
        let number = |text: &str| {
            text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten()
        };
        Some((number(from)?, number(last)?))
    });
    let Some((from, last)) = numbers else {
        let message = "the `Content-Range` is not `FIRST-LAST`";
        return Err(RegistryError::new(Code::UploadInvalid, message));
    };
    if from != size {
        let message = format!("the upload is at byte {size}, and these bytes begin at {from}");
        return Err(RegistryError::new(Code::UploadInvalid, message)
            .with_status(StatusCode::RANGE_NOT_SATISFIABLE));
    }
    let said = last.checked_sub(from).and_then(|n| n.checked_add(1));
    if said.is_none() || length.is_some_and(|length| said != Some(length)) {
        let message = format!("the `Content-Range` {from}-{last} is not as long as the body");
        return Err(RegistryError::new(Code::SizeInvalid, message));
    }
    Ok(())
}

/// Where an upload goes on, and how far it is.
fn position(repository: &Repository, id: UploadId, size: u64) -> [(HeaderName, HeaderValue); 3] {
    let location = format!("{BASE}/{repository}/blobs/uploads/{id}");
    [
        (header::LOCATION, text_header(&location)),
        (header::RANGE, text_header(&format!("0-{}", size.saturating_sub(1)))),
        (UPLOAD_UUID, text_header(&id.to_string())),
    ]
}

fn state(status: StatusCode, repository: &Repository, id: UploadId, size: u64) -> Response {
    (status, position(repository, id, size)).into_response()
}

fn created(repository: &Repository, digest: &OciDigest) -> Response {
    let location = format!("{BASE}/{repository}/blobs/{digest}");
    let headers = [(header::LOCATION, text_header(&location)), digest_header(digest)];
    (StatusCode::CREATED, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::BlobStore;

    async fn upload(store: &BlobStore) -> Upload {
        let intake = store.intake().await.unwrap();
        let session = Session { intake, hasher: Hasher::new(Algorithm::Sha256) };
        Upload {
            repository: "a".parse().unwrap(),
            used: Mutex::new(Instant::now()),
            session: Arc::new(AsyncMutex::new(Some(session))),
        }
    }

    fn id(n: usize) -> UploadId {
        UploadId::from_bytes((n as u128).to_be_bytes())
    }

    #[tokio::test]
    async fn uploads_are_counted_and_the_idle_ones_end() {
        let home = tempfile::tempdir().unwrap();
        let store = BlobStore::open(home.path(), Some(1 << 20)).unwrap();
        let uploads = Uploads::default();
        for n in 0..UPLOADS_MAX {
            uploads.insert(id(n), upload(&store).await).unwrap();
        }
        assert!(uploads.insert(id(1_000), upload(&store).await).is_err(), "all are young");
        let repository = "a".parse().unwrap();
        let (busy, _turn) = uploads.turn(&repository, id(0)).await.unwrap();
        uploads.expire(Duration::ZERO);
        assert_eq!(uploads.with(|all| all.len()), 1, "one is at work");
        assert_eq!(busy.idle(), None);
        assert!(uploads.find(&"b".parse().unwrap(), id(0)).is_err(), "it is another repository's");
        drop((busy, _turn));
        uploads.expire(Duration::ZERO);
        let files = std::fs::read_dir(home.path().join("tmp")).unwrap().count();
        assert_eq!(files, 0, "nothing is left on disk");
        assert_eq!(store.usage().bytes, 0);
    }

    #[tokio::test]
    async fn content_is_named_when_it_is_what_it_should_be_by_either_function() {
        let home = tempfile::tempdir().unwrap();
        let store = BlobStore::open(home.path(), None).unwrap();
        for said in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut session = upload(&store).await.session.lock().await.take().unwrap();
            session.write(b"hello ").unwrap();
            session.write(b"world").unwrap();
            let added = session.finish(OciDigest::of(said, b"hello world")).unwrap().unwrap();
            assert_eq!(added.digest, catalog::Digest::of(b"hello world"));
            let mut session = upload(&store).await.session.lock().await.take().unwrap();
            session.write(b"hello").unwrap();
            let other = session.finish(OciDigest::of(said, b"hello world")).unwrap();
            assert_eq!(other, Err(OciDigest::of(said, b"hello")));
        }
    }

    #[test]
    fn bytes_have_to_begin_where_the_ones_before_ended() {
        let status = |text: &str, size, length| {
            check_range(text, size, length)
                .err()
                .map(|error| error.into_response().status().as_u16())
        };
        assert_eq!(status("0-9", 0, Some(10)), None);
        assert_eq!(status("bytes 10-19/*", 10, Some(10)), None);
        assert_eq!(status("10-19", 10, None), None);
        assert_eq!(status("11-19", 10, Some(9)), Some(416));
        assert_eq!(status("0-9", 10, Some(10)), Some(416));
        assert_eq!(status("10-19", 10, Some(9)), Some(400));
        assert_eq!(status("10-5", 10, None), Some(400));
        assert_eq!(status("0-18446744073709551615", 0, None), Some(400));
        for bad in ["", "-", "a-b", "1", "-5", "+1-2"] {
            assert_eq!(status(bad, 0, None), Some(400), "{bad}");
        }
    }
}
