//! What lies beside the crates: the example workflows, the programs of `examples/terrain`, and the second verifier of bundles.
//!
//! Of the programs: that the committed modules are what their sources build, that tiles change nothing, that the figures are
//! right, and that bad input is refused.
//!
//! Everything but the module comparison runs the same C sources as native programs, so no WebAssembly runtime is needed. Without
//! clang (with lld, wasi-libc and its compiler runtime for the modules) the tests say so and pass.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use scheduler::workflow::Workflow;
use tempfile::TempDir;

#[path = "../verify/agree.rs"]
mod verifier;

const PROGRAMS: [&str; 5] = ["split", "slope", "hillshade", "contour", "mosaic"];
const RESULTS: [&str; 6] =
    ["terrain.png", "slope.png", "hillshade.png", "slope.pgm", "hillshade.pgm", "stats.json"];
/// Largest committed module in bytes.
const MODULE_LEN_MAX: u64 = 300 * 1024;
/// The factor by which the workflow exaggerates the relief.
const EXAGGERATE: f64 = 2.0;

#[test]
fn every_module_is_what_its_sources_build() {
    let Some(version) = clang_version() else {
        return;
    };
    let bin = terrain().join("bin");
    let built = temp_dir();
    let output = run(Command::new(terrain().join("build")).arg(built.path()));
    let complaint = text(&output.stderr);
    if !output.status.success() && complaint.contains("wasi") && !complaint.contains("warning:") {
        println!("skipped: clang cannot build for WASI here: {complaint}");
        return;
    }
    assert!(output.status.success(), "{complaint}");
    for program in PROGRAMS {
        let module = read(&built.path().join(format!("{program}.wasm")));
        assert!(module.starts_with(b"\0asm"), "{program}");
    }
    let pinned = text(&read(&bin.join("TOOLCHAIN")));
    if pinned.trim() != version {
        println!("skipped: the modules are built by `{}`, here is `{version}`", pinned.trim());
        return;
    }
    for program in PROGRAMS {
        let name = format!("{program}.wasm");
        let same = read(&built.path().join(&name)) == read(&bin.join(&name));
        assert!(same, "bin/{name} is not what src/ builds: run examples/terrain/build");
    }
}

#[test]
fn every_module_is_small() {
    for program in PROGRAMS {
        let path = terrain().join("bin").join(format!("{program}.wasm"));
        let len = path.metadata().expect("the modules are committed").len();
        assert!(len <= MODULE_LEN_MAX, "{program}: {len} bytes");
    }
}

#[test]
fn every_workflow_is_valid_and_its_files_are_there() {
    let examples = terrain().join("..");
    for (name, steps) in [("terrain", 5), ("fpga", 5)] {
        let folder = examples.join(name);
        let source = text(&read(&folder.join("workflow.yaml")));
        let workflow = Workflow::parse(&source).unwrap_or_else(|why| panic!("{name}:\n{why}"));
        assert_eq!((workflow.name.as_str(), workflow.steps.len()), (name, steps));
        for asset in workflow.asset_paths() {
            // What `examples/fpga/fetch` brings is not in version control.
            let is_fetched = asset.path.starts_with("bundle/");
            assert!(is_fetched || folder.join(&asset.path).exists(), "{name}: {}", asset.path);
        }
    }
}

#[test]
fn any_number_of_tiles_gives_the_same_bytes() {
    let Some(native) = Native::build() else {
        return;
    };
    let whole = native.map(1);
    for tiles in [2, 5, 6, 7, 64, 344] {
        for (name, (one, many)) in RESULTS.iter().zip(whole.iter().zip(native.map(tiles))) {
            assert!(*one == many, "{name} differs with {tiles} tiles");
        }
    }
}

#[test]
fn slope_and_light_agree_with_a_computation_by_another_formula() {
    let Some(native) = Native::build() else {
        return;
    };
    let model = Pgm::read(&read(&terrain().join("jacksboro.pgm")));
    let results = native.map(6);
    let (slope, light) = (Pgm::read(&results[3]), Pgm::read(&results[4]));
    assert_eq!((slope.width, slope.height), (model.width, model.height));
    for y in 0..model.height {
        for x in 0..model.width {
            let (east, south) = model.horn(x, y);
            let expected = east.hypot(south).atan().to_degrees() * 100.0;
            assert!((slope.at(x, y) - expected).abs() <= 0.51, "slope at {x}, {y}");
            // By angles, where the program multiplies vectors.
            let steep = (EXAGGERATE * east.hypot(south)).atan();
            let aspect = south.atan2(-east);
            let (zenith, sun) = (45f64.to_radians(), 135f64.to_radians());
            let lit =
                zenith.cos() * steep.cos() + zenith.sin() * steep.sin() * (sun - aspect).cos();
            assert!((light.at(x, y) - 255.0 * lit.max(0.0)).abs() <= 0.51, "light at {x}, {y}");
        }
    }
}

#[test]
fn the_statistics_count_every_cell() {
    let Some(native) = Native::build() else {
        return;
    };
    let stats: serde_json::Value = serde_json::from_slice(&native.map(6)[5]).unwrap();
    assert_eq!((stats["width"].as_u64(), stats["height"].as_u64()), (Some(403), Some(344)));
    let elevation = &stats["elevation_m"];
    assert_eq!((elevation["min"].as_u64(), elevation["max"].as_u64()), (Some(236), Some(1076)));
    assert_eq!(elevation["mean"].as_f64(), Some(531.031));
    let bins = stats["slope_deg"]["histogram"].as_array().unwrap();
    let cells: u64 = bins.iter().filter_map(|bin| bin["cells"].as_u64()).sum();
    assert_eq!(cells, 403 * 344);
    // 250, 300, … 1050 metres.
    assert_eq!(stats["contour"]["levels"].as_u64(), Some(17));
}

#[test]
fn an_unusable_model_is_refused_by_name_and_reason() {
    let Some(native) = Native::build() else {
        return;
    };
    let good = read(&terrain().join("jacksboro.pgm"));
    let cases: [(&[u8], &str); 8] = [
        (b"", "not a binary PGM"),
        (b"P2\n# cell_mm 1 1\n1 1\n255\n0", "not a binary PGM"),
        (b"P5\n# cell_mm 1 1\n", "no width"),
        (b"P5\n# cell_mm 1 1\n0 1\n255\n\0", "a width of 0"),
        (b"P5\n# cell_mm 1 1\n1 1\n70000\n\0", "a largest value of 70000"),
        (b"P5\n# cell_mm 1 1\n16777216 2\n255\n\0", "cut it or lower its resolution"),
        (b"P5\n1 1\n255\n\0", "the size of a cell is missing"),
        (&good[..good.len() - 1], "but 277265 are due"),
    ];
    for (model, reason) in cases {
        write(&native.dir.path().join("bad.pgm"), model);
        native.refuses("split", &["--tiles", "1", "bad.pgm", "bad"], &["bad.pgm", reason]);
    }
    native.refuses("split", &["--tiles", "1", "none.pgm", "bad"], &["none.pgm", "No such file"]);
    native.refuses("split", &["--tiles", "0", "bad.pgm", "bad"], &["--tiles", "not within 1 and"]);
    native.refuses(
        "split",
        &["--tiles", "six", "bad.pgm", "bad"],
        &["`six` is not a whole number"],
    );
    write(&native.dir.path().join("small.pgm"), b"P5\n# cell_mm 1 1\n1 2\n255\n\0\0");
    native.refuses("split", &["--tiles", "3", "small.pgm", "bad"], &["3 tiles of 2 rows"]);
}

#[test]
fn a_damaged_foreign_or_missing_tile_is_refused_by_name_and_reason() {
    let Some(native) = Native::build() else {
        return;
    };
    native.map(2);
    let tile = read(&native.dir.path().join("tiles/band-0000.tile"));
    let damaged = |at: usize, byte: u8| {
        let mut bytes = tile.clone();
        bytes[at] = byte;
        bytes
    };
    for (bytes, reason) in [
        (tile[..tile.len() - 2].to_vec(), "but its header says"),
        (tile[..20].to_vec(), "not a tile"),
        (damaged(0, b'X'), "not a tile"),
        (damaged(11, 1), "a tile of the slope layer, not of elevation"),
        (damaged(11, 9), "an unknown layer"),
        (damaged(20, 0xFF), "a damaged tile: "),
        (damaged(39, 1), "its halo above"),
    ] {
        write(&native.dir.path().join("bad.tile"), &bytes);
        native.refuses("slope", &["bad.tile", "out.tile"], &["bad.tile", reason]);
    }
    let mosaic = |elevation: &[&str], slope: &[&str]| {
        let mut args = vec!["--elevation"];
        args.extend(elevation);
        args.push("--slope");
        args.extend(slope);
        args.extend(["--hillshade", "hillshade-0.tile", "hillshade-1.tile"]);
        args.extend(["--contour", "contour-0.tile", "contour-1.tile", "--out", "bad"]);
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let (upper, lower) = ("tiles/band-0000.tile", "tiles/band-0001.tile");
    for (elevation, slope, reason) in [
        (&[upper][..], &["slope-0.tile", "slope-1.tile"][..], "one of 2 tiles, but 1 are given"),
        (&[lower, upper], &["slope-0.tile", "slope-1.tile"], "tile 1 stands where tile 0 belongs"),
        (&[upper, lower], &[], "--slope: no tiles given"),
        (&[upper, lower], &[upper, lower], "a tile of the elevation layer, not of slope"),
    ] {
        let args = mosaic(elevation, slope);
        native.refuses("mosaic", &args, &[reason]);
    }
    native.refuses("mosaic", &["--slope", "a"], &["no --elevation given"]);
}

/// The programs, built for this machine in a directory of their own.
struct Native {
    dir: TempDir,
}

impl Native {
    fn build() -> Option<Self> {
        clang_version()?;
        let native = Self { dir: temp_dir() };
        for program in PROGRAMS {
            let mut clang = Command::new("clang");
            // Without contraction a machine with fused multiply-add rounds as WebAssembly does.
            clang.args([
                "-std=gnu11",
                "-O1",
                "-ffp-contract=off",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-o",
            ]);
            clang.arg(native.dir.path().join(program)).current_dir(terrain().join("src"));
            clang.args([&format!("{program}.c"), "raster.c"]);
            clang.args((program == "mosaic").then_some("png.c")).arg("-lm");
            let output = run(&mut clang);
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
        Some(native)
    }

    fn program<S: AsRef<std::ffi::OsStr>>(&self, name: &str, args: &[S]) -> Output {
        run(Command::new(self.dir.path().join(name)).args(args).current_dir(self.dir.path()))
    }

    fn succeeds<S: AsRef<std::ffi::OsStr>>(&self, name: &str, args: &[S]) {
        let output = self.program(name, args);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// Asserts code 2 and one line on standard error that holds every one of `facts`.
    fn refuses<S: AsRef<std::ffi::OsStr>>(&self, name: &str, args: &[S], facts: &[&str]) {
        let output = self.program(name, args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with(&format!("{name}: ")), "{said}");
        for fact in facts {
            assert!(said.contains(fact), "`{fact}` is missing in: {said}");
        }
    }

    /// Runs the whole workflow with so many tiles and returns [`RESULTS`].
    fn map(&self, tiles: usize) -> Vec<Vec<u8>> {
        let model = terrain().join("jacksboro.pgm").display().to_string();
        self.succeeds("split", &["--tiles", &tiles.to_string(), &model, "tiles"]);
        let mut lists: [Vec<String>; 4] = Default::default();
        for i in 0..tiles {
            let band = format!("tiles/band-{i:04}.tile");
            let layers: [(&str, &[&str]); 3] = [
                ("slope", &[]),
                ("hillshade", &["--azimuth", "315", "--altitude", "45", "--exaggerate", "2"]),
                ("contour", &["--interval", "50"]),
            ];
            for (list, (layer, options)) in lists[1..].iter_mut().zip(layers) {
                let out = format!("{layer}-{i}.tile");
                let args: Vec<&str> = options.iter().copied().chain([&*band, &*out]).collect();
                self.succeeds(layer, &args);
                list.push(out);
            }
            lists[0].push(band);
        }
        let names = ["--elevation", "--slope", "--hillshade", "--contour"];
        let mut args = Vec::new();
        for (name, list) in names.into_iter().zip(lists) {
            args.push(name.to_owned());
            args.extend(list);
        }
        args.extend(["--out".to_owned(), "out".to_owned()]);
        self.succeeds("mosaic", &args);
        RESULTS.iter().map(|name| read(&self.dir.path().join("out").join(name))).collect()
    }
}

/// A binary PGM as the example writes them.
struct Pgm {
    width: usize,
    height: usize,
    cell_m: [f64; 2],
    samples: Vec<f64>,
}

impl Pgm {
    fn read(bytes: &[u8]) -> Self {
        let mut numbers = Vec::new();
        let mut cell_m = [0.0; 2];
        let mut at = 0;
        while numbers.len() < 3 {
            let len = bytes[at..].iter().position(|b| *b == b'\n').expect("a line of the header");
            let line = text(&bytes[at..at + len]);
            at += len + 1;
            if let Some(cell) = line.strip_prefix("# cell_mm ") {
                let mut sides = cell.split(' ').map(|n| n.parse::<f64>().expect("millimetres"));
                cell_m = [(); 2].map(|()| sides.next().expect("two sides") / 1000.0);
            } else if !line.starts_with(['#', 'P']) {
                numbers.extend(line.split(' ').map(|n| n.parse::<usize>().expect("a number")));
            }
        }
        let samples = if numbers[2] > 255 {
            bytes[at..].chunks(2).map(|b| f64::from(u16::from_be_bytes([b[0], b[1]]))).collect()
        } else {
            bytes[at..].iter().map(|b| f64::from(*b)).collect()
        };
        Self { width: numbers[0], height: numbers[1], cell_m, samples }
    }

    fn at(&self, x: usize, y: usize) -> f64 {
        self.samples[y.min(self.height - 1) * self.width + x.min(self.width - 1)]
    }

    /// Rise per metre eastward and southward, by differences of weighted neighbours.
    fn horn(&self, x: usize, y: usize) -> (f64, f64) {
        let (west, north) = (x.saturating_sub(1), y.saturating_sub(1));
        let column = |x| self.at(x, north) + 2.0 * self.at(x, y) + self.at(x, y + 1);
        let row = |y| self.at(west, y) + 2.0 * self.at(x, y) + self.at(x + 1, y);
        let east = (column(x + 1) - column(west)) / (8.0 * self.cell_m[0]);
        (east, (row(y + 1) - row(north)) / (8.0 * self.cell_m[1]))
    }
}

fn terrain() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/terrain")
}

/// The first line of `clang --version`; `None`, and a word about it, when there is no clang.
fn clang_version() -> Option<String> {
    match Command::new("clang").arg("--version").output() {
        Ok(output) => text(&output.stdout).lines().next().map(|line| line.trim().to_owned()),
        Err(_) => {
            println!("skipped: clang is not installed");
            None
        }
    }
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
