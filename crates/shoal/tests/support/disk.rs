//! Small disks of a test's own, that can be broken and mended, or filled and freed: only for root,
//! and what can be broken only where the system has loop devices.
//!
//! That is the one partition of a loop device. While the kernel is told that the partition is
//! shorter, reading and writing what lies behind its end fails with EIO, as on a disk that dies;
//! what was written before is still there once it is told the old length again. What the file
//! system keeps of its files, and the bytes of the smallest ones, lies in front of the break.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// In units of 512 bytes, as everything here.
const SECTORS: u64 = 204_784;
/// Behind it are the contents of files.
const BREAK_AT: u64 = 2_048;

/// A mounted disk of 100 MB; unmounted when it is dropped.
pub(crate) struct Disk {
    device: String,
    at: PathBuf,
    options: &'static str,
}

impl Disk {
    /// Mounts a new one at the folder `at`; says so and gives `None` where that is not possible.
    pub(crate) fn mount(at: &Path, options: &'static str) -> Option<Self> {
        let made = Self::make(at, options);
        made.map_err(|reason| skipped(&reason)).ok()
    }

    fn make(at: &Path, options: &'static str) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may mount a disk".to_owned());
        }
        std::fs::create_dir_all(at).map_err(|error| error.to_string())?;
        let image = at.with_extension("disk");
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        let length = file.set_len((SECTORS + 16) * 512);
        length.map_err(|error| error.to_string())?;
        let shown = run("losetup", &["-fP", "--show", text(&image)])?;
        let device = shown.trim().to_owned();
        let disk = Self {
            device,
            at: at.to_owned(),
            options,
        };
        let made = disk.format();
        // From here on the device goes with the last mount.
        run("losetup", &["-d", &disk.device])?;
        made.map(|()| disk)
    }

    fn format(&self) -> Result<(), String> {
        run("addpart", &[&self.device, "1", "8", &SECTORS.to_string()])?;
        let partition = self.partition();
        // Without a journal nothing is written twice; small files lie in their inodes.
        let mut arguments = vec!["-q", "-b", "4096", "-I", "1024", "-N", "64", "-m", "0"];
        arguments.extend(["-O", "^has_journal,inline_data", "-E", "lazy_itable_init=0"]);
        arguments.push(&partition);
        run("mkfs.ext4", &arguments)?;
        run("mount", &["-o", self.options, &partition, text(&self.at)]).map(drop)
    }

    fn partition(&self) -> String {
        format!("{}p1", self.device)
    }

    /// From now on contents can be neither written nor read from the disk.
    pub(crate) fn fail(&self) {
        self.resize(BREAK_AT);
    }

    /// All is well again; what could not be written is lost.
    pub(crate) fn mend(&self) {
        self.resize(SECTORS);
    }

    fn resize(&self, sectors: u64) {
        run("resizepart", &[&self.device, "1", &sectors.to_string()]).expect("resize a partition");
    }

    /// Mounts it anew: what is in memory and not on the disk is gone.
    pub(crate) fn remount(&self) {
        let (partition, at) = (self.partition(), text(&self.at));
        // Held open meanwhile, or the device would go.
        let device = std::fs::File::open(&partition).expect("hold the partition");
        run("umount", &[at]).expect("unmount");
        run("mount", &["-o", self.options, &partition, at]).expect("mount again");
        drop(device);
    }

    /// The file system gives up, as it does by itself when it finds its records damaged: from now
    /// on it is read-only.
    pub(crate) fn give_up(&self) {
        run("mount", &["-o", "remount,abort", text(&self.at)]).expect("abort a file system");
    }

    /// Drops what is in memory of a file, so that it is read from the disk.
    pub(crate) fn forget(&self, file: &Path) {
        let output = format!("of={}", text(file));
        let arguments = [
            &output,
            "oflag=nocache",
            "conv=notrunc,fdatasync",
            "count=0",
        ];
        run("dd", &arguments).expect("drop a file from memory");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that failed may still have files open.
        let _ = run("umount", &["-l", text(&self.at)]);
    }
}

/// A mounted disk in memory of a few megabytes, to be filled and freed; unmounted when it is dropped.
pub(crate) struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts a new one at the folder `at`; says so and gives `None` where that is not possible.
    pub(crate) fn mount(at: &Path, size: &str) -> Option<Self> {
        let made = Self::make(at, size);
        made.map_err(|reason| skipped(&reason)).ok()
    }

    fn make(at: &Path, size: &str) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may mount a disk".to_owned());
        }
        std::fs::create_dir_all(at).map_err(|error| error.to_string())?;
        let options = format!("size={size},mode=0700");
        run("mount", &["-t", "tmpfs", "-o", &options, "none", text(at)])?;
        Ok(Self { at: at.to_owned() })
    }

    /// Leaves no room, down to the last page.
    pub(crate) fn fill(&self) {
        let filler = std::fs::File::create(self.at.join("filler"));
        let mut filler = filler.expect("create a file");
        let page = [1; 4096];
        let refused = loop {
            if let Err(refused) = filler.write_all(&page) {
                break refused;
            }
        };
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
    }

    /// Gives the room back.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.at.join("filler")).expect("remove a file");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A test that failed may still have files open.
        let _ = run("umount", &["-l", text(&self.at)]);
    }
}

/// Says in one line why a test shows nothing here.
#[expect(clippy::print_stdout, reason = "who reads the output should know")]
pub(crate) fn skipped(reason: &str) {
    println!("skipped: {reason}");
}

/// Runs a program of the system to its end; what it printed, or why not.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program} is not here: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", complaint.trim()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
