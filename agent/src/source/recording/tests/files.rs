//! Recordings as files: what is overwritten and what is not, what a full disk leaves, what a reader says of other files.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;

/// A folder of its own that is gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("faultline-recording-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a temporary folder can be made");
        Self(path)
    }

    fn file(&self, content: &[u8]) -> PathBuf {
        let path = self.0.join("file");
        fs::write(&path, content).expect("a temporary file can be written");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn message<T>(result: Result<T, RecordingError>) -> String {
    let Err(error) = result else { panic!("it was accepted") };
    error.to_string()
}

fn open_error(content: &[u8]) -> String {
    let folder = Folder::new();
    let path = folder.file(content);
    let text = message(RecordingReader::open(&path));
    assert!(text.contains(&path.display().to_string()), "{text} names no file");
    text
}

#[test]
fn a_file_comes_back_and_only_its_owner_may_read_it() -> Outcome {
    let folder = Folder::new();
    let path = folder.0.join("new");
    let mut writer = RecordingWriter::create(&path, &header())?;
    writer.append(RecordKind::Frame, 1, b"frame")?;
    writer.finish()?;
    writer.sync()?;
    let mode = fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut reader = RecordingReader::open(&path)?;
    assert_eq!(reader.header(), &header());
    assert_eq!(reader.next()?, Some(Record { kind: RecordKind::Frame, seq: 1, body: b"frame" }));
    assert_eq!(reader.next()?, None);
    assert_eq!(reader.end(), End::Clean);
    Ok(())
}

#[test]
fn only_an_empty_file_or_a_recording_is_overwritten() -> Outcome {
    let folder = Folder::new();
    let path = folder.file(b"");
    let mut writer = RecordingWriter::create(&path, &header())?;
    writer.append(RecordKind::Frame, 1, &[7; 100_000])?;
    writer.flush_block()?;
    let text = message(RecordingWriter::create(&path, &header()));
    assert!(text.contains("another process is recording"), "{text}");
    drop(writer);
    RecordingWriter::create(&path, &header())?.finish()?;
    let bytes = fs::read(&path).expect("it is there");
    assert_eq!(play(&bytes)?, (Vec::new(), End::Clean));

    for content in ["the only copy of something", "x"] {
        let path = folder.file(content.as_bytes());
        let text = message(RecordingWriter::create(&path, &header()));
        assert!(text.contains("holds something other than a recording"), "{text}");
        assert_eq!(fs::read(&path).expect("it is there"), content.as_bytes());
    }
    Ok(())
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let folder = Folder::new();
    let pipe = folder.0.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe can be made");
    for (path, says) in [
        (pipe, "not a regular file"),
        (PathBuf::from("/dev/null"), "not a regular file"),
        (folder.0.clone(), "it is a folder"),
        (folder.0.join("none/file"), "its folder exists"),
    ] {
        let text = message(RecordingWriter::create(&path, &header()));
        assert!(text.contains(says) && text.contains(&path.display().to_string()), "{text}");
    }
    let text = message(RecordingReader::open(folder.0.join("none")));
    assert!(text.contains("check the path"), "{text}");
}

#[test]
fn other_files_are_named_and_told_apart() -> Outcome {
    assert!(open_error(b"").contains("is empty, not a recording"));
    let text = open_error(b"\x7fELF\x02\x01\x01\x00rest");
    assert!(text.contains("is not a recording (it starts with \\x7fELF"), "{text}");
    assert!(open_error(&header::MAGIC[..5]).contains("ends within its header"));
    let (_, mut bytes) = sample()?;
    bytes[40] ^= 1;
    assert!(open_error(&bytes).contains("is damaged (the checksum of its content"));
    Ok(())
}

#[test]
fn a_future_format_is_named_wherever_it_is_declared() -> Outcome {
    let (_, mut bytes) = sample()?;
    block::put32(&mut bytes, 8, 2);
    assert!(open_error(&bytes).contains("is damaged"), "a flipped bit is not a new version");
    let crc = crc32fast::hash(&bytes[..28]);
    block::put32(&mut bytes, 28, crc);
    let text = open_error(&bytes);
    assert!(text.contains("has format 2, this faultline reads up to 1"), "{text}");

    let writer = RecordingWriter::new(Vec::new(), &Header { format: 3, ..header() })?;
    assert!(open_error(&writer.into_inner()).contains("has format 3"));
    Ok(())
}

#[test]
fn unknown_keys_of_a_later_version_are_ignored() -> Outcome {
    let (_, bytes) = sample()?;
    let json_len = block::get32(&bytes, 12) as usize;
    let mut later = bytes[..32].to_vec();
    later.extend(b"{\"new\":[1,{\"deep\":null}],");
    later.extend(&bytes[33..32 + json_len]);
    block::put32(&mut later, 12, json_len as u32 + 25 - 1);
    let packed = block::get32(&bytes, 16) as usize;
    later.extend(&bytes[32 + json_len..32 + json_len + packed]);
    let body_crc = crc32fast::hash(&later[32..]);
    block::put32(&mut later, 24, body_crc);
    let crc = crc32fast::hash(&later[..28]);
    block::put32(&mut later, 28, crc);
    assert_eq!(RecordingReader::new(later.as_slice())?.header(), &header());
    Ok(())
}

#[test]
fn a_header_that_no_reader_would_take_is_not_written() {
    let header = Header { snapshot: vec![0; header::MAX_SECTION + 1], ..header() };
    let text = message(RecordingWriter::new(Vec::new(), &header));
    assert!(text.contains("smaller engine snapshot"), "{text}");
}

/// A disk with room for `room` bytes.
struct Disk {
    bytes: Vec<u8>,
    room: usize,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(self.room - self.bytes.len());
        if fits == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend(&bytes[..fits]);
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_is_full_after_any_byte_keeps_a_valid_prefix() -> Outcome {
    let (records, whole) = sample()?;
    for room in 1..whole.len() {
        let mut disk = Disk { bytes: Vec::new(), room };
        let mut failed = None;
        if let Ok(mut writer) = RecordingWriter::new(&mut disk, &header()) {
            for record in &records {
                let done = writer.append(record.kind, record.seq, &record.body).and_then(|()| writer.flush_block());
                match (&failed, done) {
                    (None, Err(error)) => failed = Some(error),
                    (Some(_), done) => assert!(matches!(done, Err(RecordingError::Stopped { .. }))),
                    (None, Ok(())) => {}
                }
            }
            let committed = writer.committed() as usize;
            let error = match (failed, writer.finish()) {
                (Some(error), Err(RecordingError::Stopped { .. })) | (None, Err(error)) => error,
                (_, other) => panic!("{other:?} with room for {room} bytes"),
            };
            assert!(error.is_disk_full() && error.to_string().contains("free space"), "{error}");
            drop(writer);
            let (got, end) = play(&disk.bytes[..committed])?;
            assert!(records.starts_with(&got) && matches!(end, End::Torn { .. }));
            assert_eq!(play(&disk.bytes)?.0, got, "the half block changes nothing");
        }
    }
    Ok(())
}

/// Mounts a file system of 256 KiB on `folder`, seen by this thread only. `None` where that is not allowed.
fn tiny_disk(folder: &Folder) -> Option<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).ok()?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).ok()?;
    mount(Some("tmpfs"), &folder.0, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).ok()
}

fn fill_tiny_disk(folder: &Folder) -> Result<u64, RecordingError> {
    let path = folder.0.join("recording");
    let mut writer = RecordingWriter::create(&path, &header())?;
    let mut body = [0_u8; 4096];
    let mut state = 1_u64;
    for seq in 0..1000 {
        body.fill_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let Err(error) = writer.append(RecordKind::Frame, seq, &body) else {
            continue;
        };
        assert!(error.is_disk_full(), "{error}");
        let before = fs::metadata(&path).expect("it is there").len();
        writer.truncate_to_last_block()?;
        let after = fs::metadata(&path).expect("it is there").len();
        assert!(after == writer.committed() && after < before);
        let mut reader = RecordingReader::open(&path)?;
        let mut next = 0;
        while let Some(record) = reader.next()? {
            assert_eq!((record.seq, record.body.len()), (next, body.len()));
            next += 1;
        }
        assert!(matches!(reader.end(), End::Torn { after_seq: Some(last), .. } if last + 1 == next));
        return Ok(next);
    }
    panic!("256 KiB took 4 MiB");
}

/// A thread that leaves the mount namespace takes its mounts with it: nothing is left behind.
#[test]
fn a_real_full_disk_ends_the_recording_at_a_whole_block() -> Outcome {
    let folder = Folder::new();
    let played =
        std::thread::scope(|scope| scope.spawn(|| tiny_disk(&folder).map(|()| fill_tiny_disk(&folder))).join());
    match played.expect("the thread does not panic") {
        None => eprintln!("skipped: mounting needs root"),
        Some(records) => assert!(records? > 30),
    }
    Ok(())
}
