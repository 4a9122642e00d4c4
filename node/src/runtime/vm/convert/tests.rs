//! Every format there and back, and images that are made to do harm.

use std::process::Command;

use super::*;

/// A directory that the tool can pass through, with a converter; nothing where there is no `qemu-img`.
struct Bench {
    dir: TempDir,
    converter: Converter,
}

impl Bench {
    fn new() -> Option<Self> {
        if let Err(error) = Tool::find("tests") {
            println!("skipped: {error}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let converter = Converter::open(&dir.path().join("jobs"), "tests").unwrap();
        Some(Self { dir, converter })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn qemu_img(&self, args: &[&str]) {
        let output =
            Command::new("qemu-img").args(args).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    async fn refused(&self, name: &str) -> InvalidMachine {
        match self.converter.inspect(&self.path(name), true).await {
            Err(ConvertError::Refused(why)) => why,
            other => panic!("{name}: {other:?}"),
        }
    }

    /// Nothing is left of any job.
    fn must_be_clean(&self) {
        assert_eq!(fs::read_dir(self.path("jobs")).unwrap().count(), 0);
    }
}

fn wish(format: Format) -> Wish {
    Wish { format, compress: false, bytes_max: 64 << 20 }
}

/// Some megabytes of a disk with holes in it.
fn disk() -> Vec<u8> {
    let mut bytes = vec![0; 6 << 20];
    for (n, byte) in bytes.iter_mut().enumerate().take(3 << 20).skip(1 << 20) {
        *byte = (n * 31 % 251) as u8;
    }
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

#[tokio::test]
async fn every_format_becomes_every_other_and_the_disk_stays_the_same() {
    let Some(bench) = Bench::new() else { return };
    let raw = bench.file("raw", &disk());
    for format in Format::ALL {
        let made = bench.converter.convert(&raw, false, wish(*format)).await;
        let made = made.unwrap_or_else(|error| panic!("to {format}: {error}"));
        let kept = bench.path(format.as_str());
        fs::copy(&made.path, &kept).unwrap();
        drop(made);
        let facts = bench.converter.inspect(&kept, false).await.unwrap();
        let expected = (*format, disk().len() as u64, None);
        assert_eq!((facts.format, facts.virtual_bytes, facts.headers_only), expected);
        let (headers, of_headers, _) = headers(&kept, false).await.unwrap();
        assert_eq!((headers, of_headers), (*format, disk().len() as u64), "by its headers");
        let (kept, driver) = (kept.to_str().unwrap(), image::driver(*format));
        bench.qemu_img(&["compare", "-q", "-f", "raw", "-F", driver, "raw", kept]);
    }
    for from in Format::ALL {
        for to in Format::ALL {
            let kept = bench.path(from.as_str());
            let made = bench.converter.convert(&kept, false, wish(*to)).await;
            let made = made.unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
            let (path, driver) = (made.path.to_str().unwrap(), image::driver(*to));
            bench.qemu_img(&["compare", "-q", "-f", "raw", "-F", driver, "raw", path]);
        }
    }
    let packed = Wish { compress: true, ..wish(Format::Qcow2) };
    let packed = bench.converter.convert(&raw, false, packed).await.unwrap();
    let plain = fs::metadata(bench.path("qcow2")).unwrap().len();
    assert!(fs::metadata(&packed.path).unwrap().len() < plain / 2);
    drop(packed);
    bench.must_be_clean();
}

#[tokio::test]
async fn images_that_name_other_files_are_refused() {
    let Some(bench) = Bench::new() else { return };
    bench.file("raw", &disk());
    let backed = |name: &str, backing: &str| {
        let args = ["create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", name, "1M"];
        bench.qemu_img(&args);
    };
    backed("shadow", "/etc/shadow");
    backed("json", r#"json:{"driver":"file","filename":"/etc/shadow"}"#);
    backed("nbd", "nbd://127.0.0.1:1/x");
    let data = "data_file=data,data_file_raw=on";
    bench.qemu_img(&["create", "-q", "-f", "qcow2", "-o", data, "outside", "1M"]);
    // The bit that says so taken away: the name is left.
    let mut bytes = fs::read(bench.path("outside")).unwrap();
    bytes[72..80].fill(0);
    bench.file("named", &bytes);
    bench.qemu_img(&["convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", "raw", "flat"]);
    bench.qemu_img(&[
        "convert",
        "-O",
        "vmdk",
        "-o",
        "subformat=twoGbMaxExtentSparse",
        "raw",
        "split",
    ]);
    let words = "# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"/etc/shadow\" 0\n";
    bench.file("words", words.as_bytes());
    bench.qemu_img(&["create", "-q", "-f", "vmdk", "parent.vmdk", "1M"]);
    bench.qemu_img(&["create", "-q", "-f", "vmdk", "-b", "parent.vmdk", "-F", "vmdk", "child"]);
    for name in ["shadow", "json", "nbd", "outside", "named", "flat", "split", "words", "child"] {
        let why = bench.refused(name).await;
        // Parts that are no disk by themselves are no image either.
        assert!(matches!(why, InvalidMachine::Refers { .. }), "{name}: {why}");
    }
    bench.must_be_clean();
}

#[tokio::test]
async fn images_that_are_cut_off_or_lie_about_themselves_are_refused() {
    let Some(bench) = Bench::new() else { return };
    let raw = bench.file("raw", &disk());
    for format in [Format::Qcow2, Format::Vhd, Format::Vhdx, Format::Vdi, Format::Vmdk] {
        let made = bench.converter.convert(&raw, false, wish(format)).await.unwrap();
        let bytes = fs::read(&made.path).unwrap();
        for len in [700, bytes.len() / 2 / 512 * 512] {
            bench.file("cut", &bytes[..len]);
            let told = bench.converter.inspect(&bench.path("cut"), false).await;
            assert!(matches!(told, Err(ConvertError::Refused(_))), "{format}, {len}: {told:?}");
        }
    }
    let qcow2 = bench.converter.convert(&raw, false, wish(Format::Qcow2)).await.unwrap();
    let good = fs::read(&qcow2.path).unwrap();
    let lie = |name: &str, at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bench.file(name, &bytes);
    };
    lie("l1", 36, &u32::MAX.to_be_bytes());
    lie("l1-outside", 40, &(1_u64 << 40).to_be_bytes());
    lie("clusters", 20, &31_u32.to_be_bytes());
    lie("snapshots", 60, &u32::MAX.to_be_bytes());
    lie("future", 72, &(1_u64 << 63).to_be_bytes());
    lie("size", 24, &u64::MAX.to_be_bytes());
    lie("encrypted", 32, &2_u32.to_be_bytes());
    for name in ["l1", "l1-outside", "clusters", "snapshots", "future", "size", "encrypted"] {
        bench.refused(name).await;
    }
    // The headers are fine and what they lead to is not: that is for the tool to find.
    let table = u64::from_be_bytes(good[40..48].try_into().unwrap()) as usize;
    lie("torn", table, &u64::MAX.to_be_bytes());
    let torn = bench.converter.convert(&bench.path("torn"), false, wish(Format::Raw)).await;
    assert!(matches!(torn, Err(ConvertError::Refused(InvalidMachine::Refused { .. }))), "{torn:?}");
    let nothing = bench.converter.inspect(&bench.path("absent"), false).await;
    assert!(matches!(nothing, Err(ConvertError::Host(_))), "{nothing:?}");
    drop(qcow2);
    bench.must_be_clean();
}

#[tokio::test]
async fn a_disk_that_is_an_image_itself_becomes_no_raw_file() {
    let Some(bench) = Bench::new() else { return };
    // A guest has written the head of an image with a backing file onto its disk.
    let args =
        ["create", "-q", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", "evil", "1M"];
    bench.qemu_img(&args);
    bench.qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "evil", "nested"]);
    let nested = bench.path("nested");
    let raw = bench.converter.convert(&nested, false, wish(Format::Raw)).await;
    assert!(matches!(raw, Err(ConvertError::Nested { .. })), "{raw:?}");
    // As an image in another format it does no harm: nobody opens the disk's content as an image.
    let other = bench.converter.convert(&nested, false, wish(Format::Vdi)).await.unwrap();
    let facts = bench.converter.inspect(&other.path, false).await.unwrap();
    assert_eq!(facts.format, Format::Vdi);
    drop(other);
    bench.must_be_clean();
}

#[tokio::test]
async fn a_conversion_that_gets_too_large_says_so_and_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let mut bytes = disk();
    bytes.resize(24 << 20, 7);
    let raw = bench.file("raw", &bytes);
    let small = Wish { bytes_max: 8 << 20, ..wish(Format::Qcow2) };
    let told = bench.converter.convert(&raw, false, small).await;
    assert!(matches!(told, Err(ConvertError::NoRoom { max }) if max == 8 << 20), "{told:?}");
    bench.must_be_clean();
}

#[tokio::test]
async fn a_file_that_only_its_owner_may_read_is_looked_at_by_its_headers() {
    let Some(bench) = Bench::new() else { return };
    let raw = bench.file("raw", &disk());
    fs::set_permissions(&raw, fs::Permissions::from_mode(0o600)).unwrap();
    let facts = bench.converter.inspect(&raw, false).await.unwrap();
    assert_eq!((facts.format, facts.size), (Format::Raw, disk().len() as u64));
    let is_root = rustix::process::geteuid().is_root();
    assert_eq!(facts.headers_only.is_some(), is_root, "{facts:?}");
}

#[tokio::test]
async fn a_host_without_the_tool_has_the_headers_and_says_how_to_convert() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raw");
    fs::write(&path, disk()).unwrap();
    let mut converter = Converter::beside(dir.path(), "tests");
    converter.find = |_| Err(OpenError::NoProgram { program: "qemu-img", package: "qemu-utils" });
    let facts = converter.inspect(&path, false).await.unwrap();
    assert_eq!((facts.format, facts.virtual_bytes), (Format::Raw, disk().len() as u64));
    assert!(facts.headers_only.unwrap().contains("apt-get install qemu-utils"));
    fs::write(dir.path().join("words"), "# Disk DescriptorFile\n").unwrap();
    let refused = converter.inspect(&dir.path().join("words"), false).await;
    assert!(matches!(refused, Err(ConvertError::Refused(_))), "{refused:?}");
    let told = converter.convert(&path, false, wish(Format::Qcow2)).await;
    assert!(matches!(told, Err(ConvertError::NoTool(_))), "{told:?}");
}
