use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SOON: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

fn settings(file: &Path) -> config::Record {
    config::Record { file: Some(file.to_owned()), when_full: WhenFull::Block, max_bytes: 100 << 20, keep: 3 }
}

fn start(settings: &config::Record) -> (Records, RecordWriter) {
    Records::start(settings, |change| panic!("{change:?}")).unwrap()
}

fn file() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.jsonl");
    (directory, path)
}

fn write(records: &Records, line: impl AsRef<[u8]>) {
    records.reserve().unwrap().write(|waiting| waiting.extend_from_slice(line.as_ref()));
}

/// The whole lines of a file; panics when its end is not the end of a line.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{} ends within a line", path.display());
    text.lines().map(str::to_owned).collect()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = tokio::time::Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

#[test]
fn a_record_is_in_the_file_soon() {
    let (_directory, path) = file();
    let (records, writer) = start(&settings(&path));
    let begin = tokio::time::Instant::now();
    write(&records, "one");
    wait_until("the record", || lines(&path) == ["one"]);
    assert!(begin.elapsed() < SOON);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!((records.written(), records.dropped(), writer.finish(PATIENCE)), (1, 0, 0));
}

#[test]
fn nothing_is_lost_or_torn_under_concurrency_and_rotation() {
    const THREADS: usize = 8;
    const EACH: usize = 5000;
    let (directory, path) = file();
    let (records, writer) = start(&config::Record { max_bytes: 64 << 10, keep: 1000, ..settings(&path) });
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let records = records.clone();
            scope.spawn(move || {
                for number in 0..EACH {
                    write(&records, format!("{thread}:{number}:{}", "x".repeat(number % 97)));
                }
            });
        }
    });
    assert_eq!(writer.finish(PATIENCE), 0);
    assert_eq!(records.written(), (THREADS * EACH) as u64);
    let mut seen = HashSet::new();
    let mut files = 0;
    for entry in fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        assert!(fs::metadata(&path).unwrap().len() <= 64 << 10, "{} is too large", path.display());
        files += 1;
        for line in lines(&path) {
            let fields: Vec<_> = line.split(':').collect();
            assert_eq!(fields[2], "x".repeat(fields[1].parse::<usize>().unwrap() % 97));
            assert!(seen.insert(format!("{}:{}", fields[0], fields[1])), "{line} is there twice");
        }
    }
    assert_eq!(seen.len(), THREADS * EACH);
    assert!(files > 20, "{files} files");
}

#[test]
fn lines_of_one_thread_stay_in_order() {
    let (_directory, path) = file();
    let (records, writer) = start(&settings(&path));
    let expected: Vec<_> = (0..1000).map(|number| format!("line {number}")).collect();
    expected.iter().for_each(|line| write(&records, line));
    assert_eq!(writer.finish(PATIENCE), 0);
    assert_eq!(lines(&path), expected);
}

#[test]
fn only_so_many_rotated_files_are_kept() {
    let (directory, path) = file();
    let (records, writer) = start(&config::Record { max_bytes: 10, keep: 2, ..settings(&path) });
    for number in 1..=5 {
        write(&records, format!("12345678{number}"));
    }
    assert_eq!(writer.finish(PATIENCE), 0);
    let content = |name: &str| lines(&directory.path().join(name));
    assert_eq!(content("records.jsonl"), ["123456785"]);
    assert_eq!(content("records.jsonl.1"), ["123456784"]);
    assert_eq!(content("records.jsonl.2"), ["123456783"]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);

    let (records, writer) = start(&config::Record { max_bytes: 10, keep: 0, ..settings(&path) });
    write(&records, "longer than a file may be");
    assert_eq!(writer.finish(PATIENCE), 0);
    assert_eq!(content("records.jsonl"), ["longer than a file may be"]);
    assert_eq!(content("records.jsonl.1"), ["123456784"], "with keep = 0 nothing is moved");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever the bounds fall, lines stay whole and in order, and no file with more than one
    /// line is too large.
    #[test]
    fn rotation_never_splits_a_line(lengths in prop::collection::vec(0usize..30, 1..60), max_bytes in 0u64..100) {
        let (_directory, path) = file();
        let settings = config::Record { max_bytes, keep: 100, ..settings(&path) };
        let mut output = Output::open(&settings).unwrap();
        let expected: Vec<_> = lengths.iter().enumerate().map(|(n, len)| format!("{n}{}", "x".repeat(*len))).collect();
        for some in expected.chunks(7) {
            let (mut bytes, mut count) = (some.join("\n").into_bytes(), some.len());
            bytes.push(b'\n');
            let mut chunk = Chunk::default();
            chunk.fill(&mut bytes, &mut count);
            output.write(&mut chunk).unwrap();
        }
        let mut found = Vec::new();
        for number in (0..100).rev() {
            let path = if number == 0 { path.clone() } else { format!("{}.{number}", path.display()).into() };
            let here = lines(&path);
            prop_assert!(here.len() <= 1 || fs::metadata(&path).unwrap().len() <= max_bytes);
            found.extend(here);
        }
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_file_that_was_moved_away_is_left_alone() {
    let (directory, path) = file();
    let moved = directory.path().join("moved");
    let (records, writer) = start(&settings(&path));
    write(&records, "before");
    wait_until("the first record", || records.written() == 1);
    fs::rename(&path, &moved).unwrap();
    records.reopen();
    wait_until("the new file", || path.exists());
    write(&records, "after");
    assert_eq!(writer.finish(PATIENCE), 0);
    assert_eq!((lines(&moved), lines(&path)), (vec!["before".to_owned()], vec!["after".to_owned()]));
}

#[test]
fn a_rename_is_noticed_without_being_told() {
    let (directory, path) = file();
    let (records, writer) = start(&settings(&path));
    write(&records, "before");
    wait_until("the first record", || records.written() == 1);
    fs::rename(&path, directory.path().join("moved")).unwrap();
    wait_until("the new file", || path.exists());
    write(&records, "after");
    assert_eq!(writer.finish(PATIENCE), 0);
    assert_eq!(lines(&path), ["after"]);
}

#[test]
fn a_torn_last_line_is_ended_before_the_next() {
    let (_directory, path) = file();
    fs::write(&path, "whole\nhal").unwrap();
    let (records, writer) = start(&settings(&path));
    write(&records, "next");
    assert_eq!(writer.finish(PATIENCE), 0);
    assert_eq!(lines(&path), ["whole", "hal", "next"]);
}

#[test]
fn when_the_disk_is_full_records_wait_and_it_is_said_once() {
    let (directory, path) = file();
    symlink("/dev/full", &path).unwrap();
    let (tell, told) = mpsc::channel();
    let (records, writer) = Records::start(&settings(&path), move |change| tell.send(change).unwrap()).unwrap();
    write(&records, "one");
    let first = told.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(&first, Change::Failing(error) if error.kind() == io::ErrorKind::StorageFull), "{first:?}");
    write(&records, "two");
    let lines_now = || (records.written(), records.dropped());
    assert_eq!(lines_now(), (0, 0));
    let real = directory.path().join("real");
    symlink(&real, directory.path().join("swap")).unwrap();
    fs::rename(directory.path().join("swap"), &path).unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Change::Recovered));
    assert_eq!(writer.finish(PATIENCE), 0);
    let mut found = lines(&real);
    found.sort();
    assert_eq!(found, ["one", "two"]);
    assert!(told.try_recv().is_err(), "each change is said once");
}

/// A file system of 64 KiB; unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(directory.path()).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(directory));
        }
        eprintln!("SKIPPED: mounting a tmpfs is not permitted here");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[test]
fn a_disk_that_fills_up_within_a_line_loses_none() {
    let Some(disk) = SmallDisk::new() else { return };
    let path = disk.0.path().join("records.jsonl");
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![0; 32 << 10]).unwrap();
    let (tell, told) = mpsc::channel();
    let (records, writer) = Records::start(&settings(&path), move |change| tell.send(change).unwrap()).unwrap();
    // 50,000 bytes into 32 KiB, in lines that do not end where pages end.
    let expected: Vec<_> = (0..500).map(|number| format!("{number:099}")).collect();
    expected.iter().for_each(|line| write(&records, line));
    assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Change::Failing(_)));
    wait_until("the torn line is cut", || fs::metadata(&path).unwrap().len().is_multiple_of(100));
    let here = lines(&path);
    assert!(!here.is_empty() && here.len() < 500 && here == expected[..here.len()]);
    fs::remove_file(&ballast).unwrap();
    assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Change::Recovered));
    assert_eq!(writer.finish(PATIENCE), 0);
    assert_eq!(lines(&path), expected);
    assert!(told.try_recv().is_err());
}

#[test]
fn a_full_queue_says_no_and_counts_what_drops() {
    let (_directory, path) = file();
    for when_full in [WhenFull::Drop, WhenFull::Block] {
        let (records, writer) = start(&config::Record { when_full, ..settings(&path) });
        let mut places: Vec<_> = (0..MAX_PLACES).map(|_| records.reserve().unwrap()).collect();
        assert!(records.reserve().is_none());
        assert_eq!(records.dropped(), u64::from(when_full == WhenFull::Drop));
        // A place that is given back unused can be taken again.
        drop(places.pop());
        places.push(records.reserve().unwrap());
        // A place that was used is free once its line is in the file.
        places.pop().unwrap().write(|waiting| waiting.extend_from_slice(b"line"));
        wait_until("room", || records.take().is_some());
        drop(places);
        assert_eq!(writer.finish(PATIENCE), 0);
        assert!(records.reserve().is_none(), "a finished writer gives no places");
    }
}

#[test]
fn a_blocked_caller_goes_on_when_there_is_room_and_gives_up_when_there_is_none() {
    let (_directory, path) = file();
    let (records, writer) = start(&settings(&path));
    let mut places: Vec<_> = (0..MAX_PLACES).map(|_| records.reserve().unwrap()).collect();
    runtime().block_on(async {
        assert!(records.reserve_within(Duration::from_millis(1)).await.is_none());
        assert_eq!(records.dropped(), 1);
        let waiting = records.reserve_within(PATIENCE);
        let writing = async { places.pop().unwrap().write(|waiting| waiting.extend_from_slice(b"makes room")) };
        assert!(tokio::join!(waiting, writing).0.is_some());
        let given_back = places.pop();
        let waiting = records.reserve_within(PATIENCE);
        assert!(tokio::join!(waiting, async { drop(given_back) }).0.is_some());
    });
    drop(places);
    assert_eq!((records.dropped(), writer.finish(PATIENCE)), (1, 0));
}

#[test]
fn pending_bytes_are_bounded_and_a_failing_disk_ends_by_the_deadline() {
    let (tell, told) = mpsc::channel();
    let (records, writer) =
        Records::start(&settings(Path::new("/dev/full")), move |change| tell.send(change).unwrap()).unwrap();
    let line = vec![b'x'; 64 << 10];
    let mut taken = 0;
    while let Some(place) = records.reserve() {
        place.write(|waiting| waiting.extend_from_slice(&line));
        taken += 1;
        assert!(taken <= MAX_PENDING_BYTES / line.len() + 1);
    }
    assert!(taken * (line.len() + 1) >= MAX_PENDING_BYTES);
    assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Change::Failing(_)));
    let begin = tokio::time::Instant::now();
    assert_eq!(writer.finish(Duration::from_millis(50)), taken);
    assert!(begin.elapsed() < SOON);
}

#[test]
fn a_rotation_that_fails_keeps_no_line_back() {
    let (directory, path) = file();
    // A directory that is not empty stands where the old file should go.
    fs::create_dir_all(directory.path().join("records.jsonl.1/x")).unwrap();
    let (tell, told) = mpsc::channel();
    let settings = config::Record { max_bytes: 10, keep: 1, ..settings(&path) };
    let (records, writer) = Records::start(&settings, move |change| tell.send(change).unwrap()).unwrap();
    for number in 0..3 {
        write(&records, format!("12345678{number}"));
    }
    let change = told.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(&change, Change::Failing(error) if error.to_string().contains("cannot rotate")), "{change:?}");
    wait_until("the lines", || lines(&path).len() == 3);
    fs::remove_dir_all(directory.path().join("records.jsonl.1")).unwrap();
    wait_until("another try", || {
        write(&records, "123456783");
        told.try_recv().is_ok_and(|change| matches!(change, Change::Recovered))
    });
    assert_eq!(writer.finish(PATIENCE), 0);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_the_start() {
    let (directory, _path) = file();
    let error = Records::start(&settings(&directory.path().join("missing/records.jsonl")), log).unwrap_err();
    assert!(error.to_string().contains("cannot open"), "{error}");
}

#[test]
fn a_place_that_outlives_the_deadline_is_reported() {
    let (_directory, path) = file();
    let (records, writer) = start(&settings(&path));
    let place = records.reserve().unwrap();
    write(&records, "written");
    assert_eq!(writer.finish(Duration::from_millis(60)), 1);
    place.write(|waiting| waiting.extend_from_slice(b"too late"));
    assert_eq!(lines(&path), ["written"]);
}
