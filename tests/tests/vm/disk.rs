//! Disk machines: formats, refusals, and an unmodified Debian under cloud-init.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use catalog::Digest;
use node::runtime::vm::{Machine, VmOptions};
use node::runtime::{Exit, InvalidMachine, Mount, Origin, PrepareError};
use tests::conformance::subject::machine;

use super::{Bench, MIB, on_machines, on_machines_with};

fn qemu_img(args: &[&str]) {
    let output = Command::new("qemu-img").args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn digest(path: &Path) -> Digest {
    Digest::of(&fs::read(path).unwrap())
}

/// A raw disk whose boot sector ends in the signature.
fn raw_disk(bench: &Bench) -> String {
    let mut bytes = vec![0x5a; 4 << 20];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(bench.path("raw"), bytes).unwrap();
    bench.text("raw")
}

#[test]
fn every_format_is_taken_with_its_content() {
    on_machines(async |bench| {
        let raw = raw_disk(bench);
        let formats: [(&str, &[&str]); 8] = [
            ("raw", &[]),
            ("qcow2", &["-c"]),
            ("vpc", &["-o", "force_size"]),
            ("vpc", &["-o", "subformat=fixed,force_size"]),
            ("vhdx", &[]),
            ("vdi", &[]),
            ("vmdk", &[]),
            ("vmdk", &["-o", "subformat=streamOptimized"]),
        ];
        for (n, (format, options)) in formats.into_iter().enumerate() {
            let (image, shown) =
                (bench.path(&format!("image{n}")), bench.text(&format!("image{n}")));
            let mut args = vec!["convert", "-f", "raw", "-O", format];
            args.extend(options);
            args.extend([raw.as_str(), &shown]);
            qemu_img(&args);
            let digest = digest(&image);
            let prepared = bench.runtime.prepare(&image, digest).await;
            assert_eq!(prepared.unwrap_or_else(|e| panic!("{format}: {e}")).origin, Origin::Cold);
            let again = bench.runtime.prepare(&image, digest).await.unwrap();
            assert_eq!(again.origin, Origin::Cached);
            let kept = bench.text(&format!("vm/images/{}/disk", digest.to_hex()));
            let kept_format = if format == "raw" { "raw" } else { "qcow2" };
            qemu_img(&["compare", "-q", "-f", "raw", "-F", kept_format, &raw, &kept]);
        }
    });
}

#[test]
fn an_image_that_is_not_alone_or_not_whole_is_refused() {
    on_machines(async |bench| {
        let raw = raw_disk(bench);
        let path = |name: &str| bench.text(name);
        let backed = ["-b", "/etc/passwd", "-F", "raw"];
        qemu_img(&[&["create", "-q", "-f", "qcow2"], &backed[..], &[&path("backed")]].concat());
        let data = format!("data_file={},data_file_raw=on", path("data"));
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", &data, &path("outside"), "1M"]);
        qemu_img(&["convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", &raw, &path("flat")]);
        // One that lies in its header, about its clusters.
        qemu_img(&["create", "-q", "-f", "qcow2", &path("torn"), "1M"]);
        let mut bytes = fs::read(bench.path("torn")).unwrap();
        bytes[40..48].copy_from_slice(&u64::MAX.to_be_bytes());
        fs::write(bench.path("torn"), bytes).unwrap();
        qemu_img(&["create", "-q", "-f", "qcow2", &path("huge"), "3T"]);
        for name in ["backed", "outside", "flat", "torn", "huge"] {
            let image = bench.path(name);
            let error = bench.runtime.prepare(&image, digest(&image)).await.unwrap_err();
            let PrepareError::InvalidMachine(why) = &error else { panic!("{name}: {error}") };
            let is_expected = match name {
                "torn" => matches!(why, InvalidMachine::CutOff { .. }),
                "huge" => matches!(why, InvalidMachine::TooLarge { .. }),
                _ => matches!(why, InvalidMachine::Refers { .. }),
            };
            assert!(is_expected, "{name}: {why}");
        }
        let error = bench.runtime.prepare(Path::new(&raw), Digest::of(b"other")).await.unwrap_err();
        assert_eq!(error, PrepareError::InvalidMachine(InvalidMachine::Damaged));
        assert_eq!(fs::read_dir(bench.path("vm/images")).unwrap().count(), 0);
    });
}

#[test]
fn an_unmodified_debian_runs_a_task_after_its_authors_user_data() {
    let image = match machine("disk.qcow2") {
        Ok(image) => image,
        Err(reason) => return println!("skipped: {reason}"),
    };
    // It takes 100 s of processor time until cloud-init has done its work.
    let patient = |options: &mut VmOptions| options.boot_timeout = Duration::from_secs(900);
    on_machines_with(patient, async |bench| {
        let user_data = "#cloud-config\nlocale: false\nhostname: chosen\nwrite_files:\n  - path: /etc/made\n    \
                         content: by the author\nruncmd:\n  - [ sh, -c, 'echo ran > /etc/ran' ]\n";
        let script = "set -e; cat input /share/data /etc/made /etc/ran; echo; hostname; whoami; \
                      grep -c ssh-ed25519 ~root/.ssh/authorized_keys; printf '%s,' \"$@\"; echo $A; \
                      echo out > made; ! echo x 2>/dev/null > /share/data; (setsid sleep 1000 &); exit 7";
        let (mut task, kept) = bench.task(&["sh", "-c", script, "sh", "two words", "", "it's"]);
        fs::write(task.base.work.join("input"), "given").unwrap();
        fs::create_dir(bench.path("share")).unwrap();
        fs::write(bench.path("share/data"), "shared").unwrap();
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEI4mX9uyf/fBDPNgFuaN4+0L1ZnbTCRRGxCEa+mijDI a";
        task.digest = digest(&image);
        task.machine = Machine::Disk {
            image: image.clone(),
            user_data: Some(user_data.to_owned()),
            ssh_keys: vec![key.to_owned()],
        };
        task.base.env = [("A".to_owned(), "b".to_owned())].into();
        task.base.mounts = vec![Mount { host: bench.path("share"), guest: "/share".to_owned() }];
        (task.base.memory_bytes, task.base.cpu_milli) = (512 * MIB, 2_000);
        task.base.disk_bytes = 256 * MIB;
        let ended = bench.run((task, kept)).await;
        assert_eq!(ended.exit, Exit::Code(7), "{ended:?}");
        let expected = "givensharedby the authorran\n\nchosen\nroot\n1\ntwo words,,it's,b\n";
        assert_eq!(ended.stdout, expected);
        assert_eq!(fs::read_to_string(ended.work.join("made")).unwrap(), "out\n");
        assert!(ended.meters.io_bytes > 10 * MIB, "{:?}", ended.meters);
    });
}
