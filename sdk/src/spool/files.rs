//! The files of a spool: one line per record, `SEQUENCE CHAIN EVENT`, in files of bounded size.
//!
//! A file belongs to one start of the writer and is named `BOOT-NUMBER.spool`. A last line without its
//! newline was being written when the process died: it was never acknowledged, so it is left out.
//!
//! Beside them lies `BOOT.alive` for as long as that start runs: one that nobody holds any more is of a process that was
//! killed.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use countersign_identity::SpiffeId;
use countersign_ledger::{BootId, Digest, Event, Record};

use super::{SpoolError, SpoolLimits};

/// All files, oldest first; the last one may be open for writing.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    limits: SpoolLimits,
    when_full: WhenFull,
    files: VecDeque<SpoolFile>,
    open: Option<File>,
    next_number: u32,
    /// The sign of life of this start, locked.
    alive: Option<(PathBuf, File)>,
    /// Those of starts that were killed, until that is recorded.
    dead: Vec<(PathBuf, File)>,
}

/// What happens when the disk budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// Nothing more is taken: what lies there is on its way to the authority.
    Refuse,
    /// The oldest files go: there is nobody to whom they could be shipped.
    ForgetOldest,
}

#[derive(Debug)]
struct SpoolFile {
    path: PathBuf,
    boot: BootId,
    /// How much of it is on disk for certain.
    synced: u64,
    /// How much of it the authority holds.
    shipped: u64,
    /// Locked for as long as this process cares for the file, so that another process of the same writer does not take
    /// it for one that was left behind.
    _lock: File,
}

/// Records of one start, read back for shipping.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) boot: BootId,
    pub(super) records: Vec<Record>,
    path: PathBuf,
    until: u64,
}

impl Files {
    pub(super) fn open(
        directory: PathBuf,
        limits: SpoolLimits,
        when_full: WhenFull,
    ) -> Result<Self, SpoolError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(|e| disk(&directory, &e))?;
        let left: Vec<_> = fs::read_dir(&directory)
            .map_err(|error| disk(&directory, &error))?
            .filter_map(|entry| left_behind(&entry.ok()?.path()))
            .collect();
        let files = in_order(left);
        Ok(Self {
            directory,
            limits,
            when_full,
            files,
            open: None,
            next_number: 1,
            alive: None,
            dead: Vec::new(),
        })
    }

    /// A start begins. Returns what is to be said of earlier ones that were killed.
    pub(super) fn began(&mut self, boot: BootId) -> Result<Vec<Event>, SpoolError> {
        let entries = fs::read_dir(&self.directory).map_err(|error| disk(&self.directory, &error))?;
        let mut killed = Vec::new();
        for (boot, path, sign) in entries.filter_map(|entry| dead(entry.ok()?.path())) {
            killed.push(Event::EndedAbruptly { boot });
            self.dead.push((path, sign));
        }
        let path = self.directory.join(format!("{boot}{ALIVE}"));
        let alive = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let alive = alive.map_err(|error| disk(&path, &error))?;
        alive.try_lock().map_err(|error| disk(&path, &error.into()))?;
        self.alive = Some((path, alive));
        Ok(killed)
    }

    /// It is on disk which earlier starts were killed.
    pub(super) fn told_of_the_dead(&mut self) {
        for (path, _sign) in self.dead.drain(..) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a sign of life cannot be removed");
            }
        }
    }

    /// The start ends in good order: everything is on disk.
    pub(super) fn ended(&mut self) {
        let Some((path, _alive)) = self.alive.take() else { return };
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "the sign of life of the spool cannot be removed");
        }
    }

    /// Bytes that wait for shipping.
    pub(super) fn backlog_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.synced.saturating_sub(file.shipped)).sum()
    }

    /// Bytes that lie on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.synced).sum()
    }

    /// Makes room for `added` bytes below `bytes_max`, if the oldest may go for it: files that are not written to any
    /// more, as a whole. Returns what is missing from now on.
    pub(super) fn make_room(&mut self, writer: &SpiffeId, added: u64, bytes_max: u64) -> Vec<Event> {
        let mut gaps = Vec::new();
        while self.when_full == WhenFull::ForgetOldest
            && self.bytes().saturating_add(added) > bytes_max
            && self.files.len() > usize::from(self.open.is_some())
            && let Some(oldest) = self.files.pop_front()
        {
            let (missing_from, missing_to) = sequences(&oldest.path);
            if let Err(error) = fs::remove_file(&oldest.path) {
                tracing::warn!(path = %oldest.path.display(), %error, "an old spool file cannot be removed");
            }
            gaps.push(Event::Gap { writer: writer.clone(), boot: oldest.boot, missing_from, missing_to });
        }
        gaps
    }

    /// Writes lines that belong to `boot` and brings them to the disk. On an error the file is cut back to
    /// what it held before, or given up.
    pub(super) fn append(&mut self, boot: BootId, lines: &[u8]) -> Result<(), SpoolError> {
        self.make_room_in_file(boot)?;
        let (Some(file), Some(open)) = (self.files.back_mut(), self.open.as_mut()) else {
            return Err(SpoolError::Closed);
        };
        let written = open.write_all(lines).and_then(|()| open.sync_data());
        if let Err(error) = written {
            let failed = disk(&file.path, &error);
            let restored = open.set_len(file.synced).and_then(|()| open.seek(SeekFrom::End(0)));
            if restored.is_err() {
                self.open = None;
            }
            return Err(failed);
        }
        file.synced += u64::try_from(lines.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn make_room_in_file(&mut self, boot: BootId) -> Result<(), SpoolError> {
        let room = self.files.back().is_some_and(|file| file.synced < self.limits.file_bytes_max);
        if self.open.is_some() && room {
            return Ok(());
        }
        let path = self.directory.join(format!("{boot}-{:08}.spool", self.next_number));
        self.next_number += 1;
        let open = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let open = open.map_err(|error| disk(&path, &error))?;
        open.try_lock().map_err(|error| disk(&path, &error.into()))?;
        let lock = open.try_clone().map_err(|error| disk(&path, &error))?;
        // The name must survive as well as the content.
        File::open(&self.directory).and_then(|dir| dir.sync_all()).map_err(|e| disk(&self.directory, &e))?;
        self.open = Some(open);
        self.files.push_back(SpoolFile { path, boot, synced: 0, shipped: 0, _lock: lock });
        self.forget_shipped();
        Ok(())
    }

    /// Where the oldest records lie that were not shipped: path, boot, from, to.
    pub(super) fn unshipped(&self) -> Option<(PathBuf, BootId, u64, u64)> {
        let file = self.files.iter().find(|file| file.shipped < file.synced)?;
        Some((file.path.clone(), file.boot, file.shipped, file.synced))
    }

    /// The authority holds everything of `batch`.
    pub(super) fn shipped(&mut self, batch: &Batch) {
        if let Some(file) = self.files.iter_mut().find(|file| file.path == batch.path) {
            file.shipped = file.shipped.max(batch.until);
        }
        self.forget_shipped();
    }

    /// Deletes files of which nothing is missing elsewhere, but for the one that is being written.
    fn forget_shipped(&mut self) {
        let mut index = 0;
        while let Some(file) = self.files.get(index) {
            let being_written = self.open.is_some() && index + 1 == self.files.len();
            if being_written || file.shipped < file.synced {
                index += 1;
                continue;
            }
            if let Err(error) = fs::remove_file(&file.path) {
                tracing::warn!(path = %file.path.display(), %error, "a shipped spool file cannot be removed");
            }
            self.files.remove(index);
        }
    }
}

impl Batch {
    /// Reads the next records of a file, at least one: at most `records_max` of them, and `bytes_max` bytes.
    pub(super) fn read(
        writer: &SpiffeId,
        (path, boot, from, to): (PathBuf, BootId, u64, u64),
        records_max: usize,
        bytes_max: u64,
    ) -> Result<Self, SpoolError> {
        let mut file = File::open(&path).map_err(|error| disk(&path, &error))?;
        file.seek(SeekFrom::Start(from)).map_err(|error| disk(&path, &error))?;
        let mut lines = Vec::new();
        file.take(to - from).read_to_end(&mut lines).map_err(|error| disk(&path, &error))?;
        let (mut records, mut until) = (Vec::new(), from);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
            let full = records.len() >= records_max || until + bytes - from > bytes_max;
            if full && !records.is_empty() {
                break;
            }
            until += bytes;
            match parse_line(writer, boot, line) {
                Some(record) => records.push(record),
                // The authority sees the gap in the numbers; here it only must not stop the rest.
                None => tracing::error!(path = %path.display(), "a line of the spool cannot be read"),
            }
        }
        Ok(Self { boot, records, path, until })
    }
}

/// The line of a record.
pub(super) fn line(record: &Record) -> Vec<u8> {
    let mut line = format!("{} {} ", record.sequence, record.chain).into_bytes();
    line.extend_from_slice(&record.bytes);
    line.push(b'\n');
    line
}

fn parse_line(writer: &SpiffeId, boot: BootId, line: &[u8]) -> Option<Record> {
    let line = line.strip_suffix(b"\n")?;
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let sequence = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let chain: Digest = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    Some(Record { writer: writer.clone(), boot, sequence, bytes: parts.next()?.to_vec(), chain })
}

/// The first and the last sequence in a file; zero where that cannot be read.
fn sequences(path: &Path) -> (u64, u64) {
    let bytes = fs::read(path).unwrap_or_default();
    let sequence = |line: &[u8]| {
        let number = line.split(|byte| *byte == b' ').next()?;
        std::str::from_utf8(number).ok()?.parse().ok()
    };
    let mut whole = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let first = whole.next().and_then(sequence).unwrap_or(0);
    (first, whole.next_back().and_then(sequence).unwrap_or(first))
}

/// Starts by their age, and the files of one start by their number alone: a clock that was set back meanwhile
/// would reverse them, and what reaches the authority behind a gap in the numbers is lost.
fn in_order(left: Vec<(SystemTime, String, SpoolFile)>) -> VecDeque<SpoolFile> {
    let mut starts: BTreeMap<BootId, Vec<_>> = BTreeMap::new();
    for (modified, number, file) in left {
        starts.entry(file.boot).or_default().push((number, modified, file));
    }
    let mut starts: Vec<_> = starts.into_values().collect();
    starts.sort_by_key(|files| files.iter().map(|(_, modified, _)| *modified).min());
    for files in &mut starts {
        files.sort_by(|a, b| a.0.cmp(&b.0));
    }
    starts.into_iter().flatten().map(|(_, _, file)| file).collect()
}

/// A file of an earlier start, with its age and its number. One whose process lives is its own affair.
fn left_behind(path: &Path) -> Option<(SystemTime, String, SpoolFile)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".spool")?;
    let (boot, number) = name.rsplit_once('-')?;
    let boot: BootId = boot.parse().ok()?;
    let mut lock = File::open(path).ok()?;
    lock.try_lock().ok()?;
    let mut bytes = Vec::new();
    lock.read_to_end(&mut bytes).ok()?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let modified = fs::metadata(path).and_then(|data| data.modified()).ok()?;
    let synced = u64::try_from(whole).ok()?;
    let file = SpoolFile { path: path.to_owned(), boot, synced, shipped: 0, _lock: lock };
    Some((modified, number.to_owned(), file))
}

/// The start whose sign of life this is, if its process lives no more.
fn dead(path: PathBuf) -> Option<(BootId, PathBuf, File)> {
    let boot = path.file_name()?.to_str()?.strip_suffix(ALIVE)?.parse().ok()?;
    let sign = File::open(&path).ok()?;
    sign.try_lock().ok()?;
    Some((boot, path, sign))
}

fn disk(path: &Path, error: &std::io::Error) -> SpoolError {
    SpoolError::Disk { path: path.to_owned(), why: error.to_string() }
}

const ALIVE: &str = ".alive";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_second_process_of_the_same_writer_leaves_the_files_of_a_living_one_alone() {
        let directory = countersign_testkit::temp_dir();
        let open =
            || Files::open(directory.path().to_owned(), SpoolLimits::default(), WhenFull::Refuse).unwrap();
        let boot = BootId::from_random([1; 16]);
        let mut living = open();
        living.append(boot, b"1 00 {}\n").unwrap();
        let mut second = open();
        assert_eq!(second.unshipped(), None, "the records of a living process are its own affair");
        second.append(BootId::from_random([2; 16]), b"1 00 {}\n").unwrap();
        drop(second);
        living.append(boot, b"2 00 {}\n").unwrap();
        let (path, _, from, to) = living.unshipped().unwrap();
        assert_eq!((fs::metadata(&path).unwrap().len(), from), (to, 0));
        drop(living);
        assert_eq!(open().files.len(), 2, "a dead process's files are adopted");
    }
    #[test]
    fn without_an_authority_the_oldest_files_go_and_what_is_missing_is_known() {
        let directory = countersign_testkit::temp_dir();
        let limits = SpoolLimits { file_bytes_max: 16, ..SpoolLimits::default() };
        let writer: SpiffeId = "spiffe://td/svc/ads".parse().unwrap();
        let boot = BootId::from_random([1; 16]);
        let fill = |when_full| {
            let mut files = Files::open(directory.path().to_owned(), limits, when_full).unwrap();
            for two in [b"1 00 {}\n2 00 {}\n", b"3 00 {}\n4 00 {}\n"] {
                files.append(boot, two).unwrap();
            }
            files
        };
        let mut shipping = fill(WhenFull::Refuse);
        assert_eq!(shipping.make_room(&writer, 16, 32), []);
        assert_eq!(shipping.bytes(), 32, "what the authority does not have yet stays");
        drop(shipping);
        fs::read_dir(directory.path())
            .unwrap()
            .for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());

        let mut local = fill(WhenFull::ForgetOldest);
        let gap = Event::Gap { writer: writer.clone(), boot, missing_from: 1, missing_to: 2 };
        assert_eq!(local.make_room(&writer, 16, 32), [gap]);
        assert_eq!(local.make_room(&writer, 16, 32), []);
        assert_eq!(local.make_room(&writer, 16, 8), [], "the file that is being written stays");
        assert_eq!((local.bytes(), fs::read_dir(directory.path()).unwrap().count()), (16, 1));
    }
}
