//! From a document and a run's state to tasks.

use std::collections::BTreeMap;

use catalog::Digest;
use scheduler::task::{Boot, Collect, FailureClass, Program, RuntimeKind, Stage};
use scheduler::value::{DirRef, FileRef, Manifest, Value};
use scheduler::workflow::{
    AssetKind, Backoff, EvalError, INLINE_FILES_MAX, Materialised, Retry, Scope, Workflow,
};

use crate::{terrain, with_steps};

pub(crate) fn file_ref(name: &str) -> FileRef {
    FileRef { digest: Digest::of(name.as_bytes()), size: name.len() as u64, name: name.to_owned() }
}

pub(crate) fn dir_ref(name: &str) -> DirRef {
    DirRef { digest: Digest::of(name.as_bytes()), size: 1, name: name.to_owned() }
}

fn files(names: &[&str]) -> Value {
    Value::List(names.iter().map(|name| Value::File(file_ref(name))).collect())
}

/// A run of the terrain workflow, or of a small one, in which every step has ended.
pub(crate) struct Run<'w> {
    workflow: &'w Workflow,
    pub(crate) params: BTreeMap<String, Value>,
    pub(crate) assets: BTreeMap<String, Stage>,
    pub(crate) outputs: BTreeMap<(String, String), Value>,
}

impl<'w> Run<'w> {
    pub(crate) fn new(workflow: &'w Workflow) -> Self {
        let mut given = BTreeMap::new();
        if workflow.params.contains_key("dem") {
            given.insert("dem".to_owned(), Value::File(file_ref("alps.pgm")));
            given.insert("share".to_owned(), Value::Dir(dir_ref("shared")));
        }
        let assets = workflow.asset_paths().into_iter().map(|asset| {
            let stage = match asset.kind {
                AssetKind::File => Stage::File(file_ref(&asset.path)),
                AssetKind::Dir => Stage::Dir(dir_ref(&asset.path)),
            };
            (asset.path, stage)
        });
        let mut run = Self {
            workflow,
            params: workflow.bind_params(given).expect("the parameters fit"),
            assets: assets.collect(),
            outputs: BTreeMap::new(),
        };
        run.output("split.tiles", files(&["b.dem", "a.dem"]));
        run.output("split.meta", Value::Map(BTreeMap::from([("count".to_owned(), Value::Int(2))])));
        run.output("slope.slope", files(&["slope.dem", "slope.dem"]));
        run.output("slope.log", files(&["stdout", "stdout"]));
        run.output("check.ok", Value::Bool(true));
        run.output("mosaic.png", Value::File(file_ref("mosaic.png")));
        run
    }

    pub(crate) fn output(&mut self, name: &str, value: Value) {
        let (step, output) = name.split_once('.').expect("written as step.output");
        self.outputs.insert((step.to_owned(), output.to_owned()), value);
    }

    pub(crate) fn with<T>(
        &self,
        id: &str,
        item: Option<(u32, &Value)>,
        body: impl FnOnce(&Workflow, u32, &Scope<'_>) -> T,
    ) -> T {
        let outputs = |step: u32, output: &str| {
            let id = self.workflow.steps[step as usize].id.clone();
            self.outputs.get(&(id, output.to_owned())).cloned()
        };
        let scope = Scope { params: &self.params, assets: &self.assets, outputs: &outputs, item };
        body(self.workflow, self.workflow.step_index(id).expect("the step exists"), &scope)
    }

    /// The tasks of a step, one for each item of a mapped one.
    pub(crate) fn tasks(&self, id: &str) -> Result<Vec<Materialised>, EvalError> {
        match self.with(id, None, |w, step, scope| w.expand(step, scope))? {
            None => {
                self.with(id, None, |w, step, scope| w.materialise(step, scope)).map(|t| vec![t])
            }
            Some(items) => (0..)
                .zip(&items)
                .map(|item| self.with(id, Some(item), |w, step, scope| w.materialise(step, scope)))
                .collect(),
        }
    }

    fn task(&self, id: &str) -> Materialised {
        self.tasks(id).unwrap_or_else(|e| panic!("{id}: {e}")).remove(0)
    }

    fn runs(&self, id: &str) -> Result<bool, EvalError> {
        self.with(id, None, |w, step, scope| w.should_run(step, scope))
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn small(steps: &str) -> Workflow {
    Workflow::parse(&with_steps(steps)).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn the_document_reads_as_it_is_written() {
    let workflow = terrain();
    assert_eq!(workflow.name, "terrain");
    assert_eq!(workflow.digest, Digest::of(crate::TERRAIN.as_bytes()));
    let ids: Vec<&str> = workflow.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(ids, ["split", "slope", "check", "mosaic"]);
    let deps: Vec<Vec<u32>> =
        workflow.steps.iter().map(|s| s.deps.iter().copied().collect()).collect();
    assert_eq!(deps, [vec![], vec![0], vec![0], vec![1, 2]]);
    assert!(workflow.steps[3].after.is_empty(), "data flows along both edges already");
    let slope = &workflow.steps[1];
    assert_eq!(slope.timeout_ms, 300_000);
    assert_eq!(slope.max_parallel(), Some(4));
    assert_eq!((slope.needs.cpu_milli, slope.needs.memory_bytes), (500, 256 << 20));
    assert_eq!(slope.needs.disk_bytes, 1_000_000_000);
    assert_eq!(slope.outputs["log"], Collect::Stdout);
    let backoff =
        Backoff { initial_ms: 2000, factor_milli: 1500, max_ms: 60_000, jitter_milli: 100 };
    let on = [FailureClass::Exit, FailureClass::Infra].into();
    assert_eq!(slope.retry, Retry { attempts: 5, on, backoff });
    assert_eq!(workflow.steps[0].retry, Retry::default());
    let assets: Vec<String> = workflow
        .asset_paths()
        .iter()
        .map(|a| format!("{}:{}:{} {:?}", a.path, a.line, a.column, a.kind))
        .collect();
    assert_eq!(
        assets,
        [
            "bin/check.wasm:43:26 File",
            "bin/mosaic.wasm:48:26 File",
            "bin/slope.wasm:27:17 File",
            "bin/split.wasm:15:17 File",
            "data/ref:31:55 Dir",
        ]
    );
}

#[test]
fn a_task_has_its_arguments_files_and_limits() {
    let workflow = terrain();
    let run = Run::new(&workflow);
    let spec = run.task("split").spec;
    assert_eq!(spec.argv, words(&["split", "--tiles", "6", "--id", "007", "dem.pgm", "out"]));
    assert_eq!(
        spec.env,
        BTreeMap::from([("MODE".into(), "fast".into()), ("LEVEL".into(), "3".into())])
    );
    assert_eq!(spec.program, Program::Wasi { module: file_ref("bin/split.wasm"), fuel: true });
    assert_eq!(
        spec.inputs,
        BTreeMap::from([("dem.pgm".into(), Stage::File(file_ref("alps.pgm")))])
    );
    assert_eq!(spec.outputs["tiles"], Collect::Files("tiles/*.dem".into()));
    assert!(spec.stdin.is_none() && spec.mounts.is_empty());
}

#[test]
fn a_mapped_step_makes_a_task_for_each_item() {
    let workflow = terrain();
    let tasks = Run::new(&workflow).tasks("slope").unwrap();
    assert_eq!(tasks.len(), 2);
    for (n, (task, name)) in tasks.iter().zip(["b.dem", "a.dem"]).enumerate() {
        let (n, computed) = (n.to_string(), (12 + n).to_string());
        assert_eq!(task.spec.argv, words(&["inclination", "tile", &n, name, &computed]));
        assert_eq!(task.spec.inputs["tile"], Stage::File(file_ref(name)));
        let json = r#"{"name":"ü","sun":[1,2.5]}"#;
        let digest = Digest::of(json.as_bytes());
        assert_eq!(task.blobs, BTreeMap::from([(digest, json.as_bytes().to_vec())]));
        let settings = FileRef { digest, size: json.len() as u64, name: "settings.json".into() };
        assert_eq!(task.spec.inputs["conf/settings.json"], Stage::File(settings.clone()));
        assert_eq!(task.spec.stdin, Some(settings));
        assert_eq!(task.spec.mounts["/share"], dir_ref("shared"));
        assert_eq!(task.spec.mounts["/data"], dir_ref("data/ref"));
    }
    let error =
        Run::new(&workflow).with("slope", None, |w, step, scope| w.materialise(step, scope));
    assert_eq!(error, Err(EvalError::NoItem { step: "slope".into() }));
}

#[test]
fn a_list_of_files_keeps_its_order_and_extensions() {
    let workflow = terrain();
    let mut run = Run::new(&workflow);
    run.output(
        "slope.slope",
        files(&["z.dem", "a", ".hidden", "x.tar.gz", "bad.e/x", "n.\u{fc}", "y."]),
    );
    run.output("check.ok", Value::Null);
    let task = run.task("mosaic");
    let paths = [
        "parts/0000.dem",
        "parts/0001",
        "parts/0002",
        "parts/0003.gz",
        "parts/0004",
        "parts/0005",
        "parts/0006",
    ];
    assert_eq!(task.spec.argv[1..], paths, "the skipped step's input adds no argument");
    assert_eq!(task.spec.inputs.keys().collect::<Vec<_>>(), paths);
    assert!(task.blobs.is_empty());
}

#[test]
fn a_long_list_of_files_becomes_one_directory() {
    let workflow = terrain();
    let mut run = Run::new(&workflow);
    let many: Vec<String> = (0..INLINE_FILES_MAX + 1).map(|n| format!("{n}.dem")).collect();
    run.output("slope.slope", files(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    let task = run.task("mosaic");
    let Stage::Dir(dir) = &task.spec.inputs["parts"] else { panic!("{:?}", task.spec.inputs) };
    let manifest = Manifest::decode(&task.blobs[&dir.digest]).unwrap();
    assert_eq!(manifest.files.len(), many.len());
    assert_eq!(manifest.files["0256.dem"].digest, file_ref("256.dem").digest);
    assert_eq!(dir.size, manifest.size());
    assert_eq!(task.spec.argv[257], "parts/0256.dem");
}

#[test]
fn conditions_decide_and_skipped_steps_are_null() {
    let workflow = terrain();
    let mut run = Run::new(&workflow);
    assert_eq!(run.runs("check"), Ok(true));
    assert_eq!(run.runs("mosaic"), Ok(true));
    run.params.insert("tiles".into(), Value::Int(1));
    assert_eq!(run.runs("check"), Ok(false));
    run.params.insert("tiles".into(), Value::Int(2));
    run.outputs.remove(&("split".into(), "meta".into()));
    let not_ready = EvalError::NotReady { step: "split".into(), output: "meta".into() };
    assert_eq!(run.runs("check"), Err(not_ready));
    run.output("split.meta", Value::Int(1));
    let text = run.runs("check").unwrap_err().to_string();
    assert_eq!(
        text,
        "`params.tiles > 1 && steps.split.meta.count > 1` of step `check` has no value"
    );
}

#[test]
fn a_condition_on_the_item_is_asked_for_each() {
    let workflow = small(
        "  a: {run: {wasi: {module: a.wasm}}, map: {over: [1, 2], as: n}, when: n > 1 || index > 5}\n",
    );
    assert!(workflow.steps[0].is_skipped_by_item());
    let run = Run::new(&workflow);
    assert_eq!(run.runs("a"), Ok(true), "without an item the step may run");
    for (n, runs) in [(1, false), (2, true)] {
        let item = Value::Int(n);
        assert_eq!(
            run.with("a", Some((0, &item)), |w, step, scope| w.should_run(step, scope)),
            Ok(runs)
        );
    }
}

#[test]
fn lists_ranges_and_expressions_expand() {
    let ints = |ints: &[i64]| Value::List(ints.iter().copied().map(Value::Int).collect());
    for (over, expected) in [
        ("[1, 2]", Ok(ints(&[1, 2]))),
        ("{range: [2, 4]}", Ok(ints(&[2, 3, 4]))),
        ("{range: [2, 1]}", Ok(ints(&[]))),
        ("{range: [1, {expr: 'size([1, 2])'}]}", Ok(ints(&[1, 2]))),
        ("{expr: '[1, 2, 3].filter(x, x > 1)'}", Ok(ints(&[2, 3]))),
        ("{expr: 'null'}", Ok(ints(&[]))),
        ("{expr: '1'}", Err("`map.over` of step `a` has to be a list, not a whole number")),
        (
            "{range: [1, 100001]}",
            Err("step `a` maps over 100001 items, at most 100000 are allowed"),
        ),
        (
            "{range: [-9223372036854775808, 9223372036854775807]}",
            Err("step `a` maps over 18446744073709551615 items, at most 100000 are allowed"),
        ),
    ] {
        let workflow =
            small(&format!("  a: {{run: {{wasi: {{module: a.wasm}}}}, map: {{over: {over}}}}}\n"));
        let run = Run::new(&workflow);
        let items = run.with("a", None, |w, step, scope| w.expand(step, scope));
        let items = items.map(|items| Value::List(items.unwrap())).map_err(|e| e.to_string());
        assert_eq!(items, expected.map_err(ToOwned::to_owned), "{over}");
    }
    let workflow = terrain();
    assert_eq!(
        Run::new(&workflow).with("split", None, |w, step, scope| w.expand(step, scope)),
        Ok(None)
    );
}

#[test]
fn values_that_do_not_fit_are_refused_with_their_place() {
    let workflow = small(
        "  a: {run: {wasi: {module: a.wasm}}, out: {v: {value: v.json}}}\n\
         \x20 b:\n    run: {wasi: {module: b.wasm, args: [{expr: steps.a.v}], stdin: {in: v}}}\n    in: {v: {from: a.v}}\n",
    );
    let mut run = Run::new(&workflow);
    let mut check = |value: Value, expected: &str| {
        run.output("a.v", value);
        assert_eq!(run.tasks("b").unwrap_err().to_string(), expected);
    };
    check(
        Value::Map(BTreeMap::new()),
        "`args[0]` of step `b` has to be text without zero bytes, or a number, not a map",
    );
    check(
        Value::Text("a\0b".into()),
        "`args[0]` of step `b` has to be text without zero bytes, or a number, not text",
    );
    check(Value::Null, "`in.v` of step `b` has to be there, not nothing");
    check(
        Value::List(vec![Value::Int(1), Value::File(file_ref("x"))]),
        "`in.v` of step `b` cannot be written as JSON: it holds a file or an infinite number, or is larger than 1048576 bytes",
    );
    check(files(&["x", "y"]), "`stdin` of step `b` has to be a file, not a list");
    check(
        Value::Text("x".repeat(1 << 17)),
        "a task of step `b` takes 131638 bytes, at most 131072 are allowed: pass fewer arguments",
    );
    run.output(
        "a.v",
        Value::List(vec![Value::Int(1), Value::Bool(true), Value::Null, Value::Text("t".into())]),
    );
    assert_eq!(run.task("b").spec.argv, words(&["b", "1", "true", "t"]));
    run.assets.clear();
    assert_eq!(
        run.tasks("b").unwrap_err().to_string(),
        "`b.wasm`, named by step `b`, is not among the workflow's files"
    );
}

#[test]
fn a_module_comes_from_a_path_a_parameter_or_a_digest() {
    let digest = Digest::of(b"module");
    let text = format!(
        "opencloud: workflow/v1\nname: w\nparams: {{m: {{type: file}}}}\nsteps:\n\
         \x20 a: {{run: {{wasi: {{module: {{param: m}}}}}}}}\n\
         \x20 b: {{run: {{wasi: {{module: \"{digest}\"}}}}}}\n"
    );
    let workflow = Workflow::parse(&text).unwrap();
    assert_eq!(workflow.blobs(), [(digest, AssetKind::File)].into());
    assert!(workflow.asset_paths().is_empty());
    let given = BTreeMap::from([("m".to_owned(), Value::File(file_ref("tool.v1.wasm")))]);
    let blob = FileRef { digest, size: 6, name: "known.wasm".into() };
    let run = Run {
        workflow: &workflow,
        params: workflow.bind_params(given).unwrap(),
        assets: BTreeMap::from([(digest.to_string(), Stage::File(blob.clone()))]),
        outputs: BTreeMap::new(),
    };
    assert_eq!(run.task("a").spec.argv, ["tool.v1"]);
    let spec = run.task("b").spec;
    assert_eq!(spec.argv, words(&["known"]));
    assert_eq!(spec.program, Program::Wasi { module: blob, fuel: false });
}

#[test]
fn an_image_comes_from_a_directory_a_parameter_or_a_digest() {
    let digest = Digest::of(b"image");
    let text = format!(
        "opencloud: workflow/v1\nname: w\nparams: {{i: {{type: dir}}}}\nsteps:\n\
         \x20 a: {{run: {{container: {{image: {{param: i}}, args: [-c, 1]}}}}}}\n\
         \x20 b: {{run: {{container: {{image: \"{digest}\", entrypoint: [/bin/sh]}}}}}}\n\
         \x20 c: {{run: {{container: {{image: images/tool}}}}}}\n"
    );
    let workflow = Workflow::parse(&text).unwrap();
    assert_eq!(workflow.blobs(), [(digest, AssetKind::Dir)].into());
    let assets = workflow.asset_paths();
    assert_eq!(
        (assets.len(), assets[0].path.as_str(), assets[0].kind),
        (1, "images/tool", AssetKind::Dir)
    );
    let given = BTreeMap::from([("i".to_owned(), Value::Dir(dir_ref("given")))]);
    let known = DirRef { digest, size: 5, name: "known".into() };
    let run = Run {
        workflow: &workflow,
        params: workflow.bind_params(given).unwrap(),
        assets: BTreeMap::from([
            (digest.to_string(), Stage::Dir(known.clone())),
            ("images/tool".to_owned(), Stage::Dir(dir_ref("tool"))),
        ]),
        outputs: BTreeMap::new(),
    };
    let task = |step| {
        let spec = run.task(step).spec;
        (spec.program, spec.argv)
    };
    let image = |image, entrypoint| Program::Container { image, entrypoint };
    assert_eq!(task("a"), (image(dir_ref("given"), None), words(&["-c", "1"])));
    assert_eq!(task("b"), (image(known, Some(words(&["/bin/sh"]))), words(&[])));
    assert_eq!(task("c"), (image(dir_ref("tool"), None), words(&[])));
    assert_eq!(run.task("b").spec.program.runtime(), RuntimeKind::Container);
}

#[test]
fn a_machine_boots_a_kernel_or_a_disk_and_a_cluster_gets_a_program() {
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGqV8dHYqyKpCqIRCz6Dn5JDwSrmWwNQnGSVSjLK6qZ9 me";
    let digest = Digest::of(b"disk");
    let text = format!(
        "opencloud: workflow/v1\nname: w\nparams: {{k: {{type: dir}}}}\nsteps:\n\
         \x20 a: {{run: {{vm: {{kernel: {{param: k}}, append: quiet, args: [run, 1]}}}}}}\n\
         \x20 b: {{run: {{vm: {{disk: \"{digest}\", user_data: cloud.yaml, ssh_keys: [{KEY}], args: [sh]}}}}}}\n\
         \x20 c: {{run: {{slurm: {{program: tool, args: [x]}}}}, needs: {{runtime: slurm}}}}\n"
    );
    let workflow = Workflow::parse(&text).unwrap();
    assert_eq!(workflow.blobs(), [(digest, AssetKind::File)].into());
    let paths = workflow.asset_paths().into_iter().map(|asset| (asset.path, asset.kind));
    let file = |path: &str| (path.to_owned(), AssetKind::File);
    assert_eq!(paths.collect::<Vec<_>>(), ["cloud.yaml", "tool"].map(file));
    let given = BTreeMap::from([("k".to_owned(), Value::Dir(dir_ref("mini")))]);
    let known = FileRef { digest, size: 4, name: "known.qcow2".into() };
    let staged = |name: &str| (name.to_owned(), Stage::File(file_ref(name)));
    let run = Run {
        workflow: &workflow,
        params: workflow.bind_params(given).unwrap(),
        assets: BTreeMap::from([
            (digest.to_string(), Stage::File(known.clone())),
            staged("cloud.yaml"),
            staged("tool"),
        ]),
        outputs: BTreeMap::new(),
    };
    let spec = run.task("a").spec;
    let dir = dir_ref("mini");
    let blobs = vec![(dir.digest, dir.size)];
    let boot = Boot::Kernel { dir, append: "quiet".to_owned() };
    assert_eq!(spec.program, Program::Vm { boot, user_data: None, ssh_keys: Vec::new() });
    assert_eq!((spec.argv.clone(), spec.program.name()), (words(&["run", "1"]), "mini"));
    assert_eq!(spec.blobs(), blobs);
    let boot = Boot::Disk { disk: known };
    let user_data = Some(file_ref("cloud.yaml"));
    let ssh_keys = vec![KEY.to_owned()];
    assert_eq!(run.task("b").spec.program, Program::Vm { boot, user_data, ssh_keys });
    let spec = run.task("c").spec;
    assert_eq!(spec.program, Program::Slurm { program: file_ref("tool") });
    assert_eq!((spec.program.runtime(), spec.argv), (RuntimeKind::Slurm, words(&["x"])));
}

#[test]
fn the_workflows_outputs_are_collected() {
    let workflow = terrain();
    let mut run = Run::new(&workflow);
    let collect = |run: &Run<'_>| run.with("split", None, |w, _, scope| w.collect_outputs(scope));
    let picture = ("picture".to_owned(), Value::File(file_ref("mosaic.png")));
    let verdict = ("verdict".to_owned(), Value::Bool(true));
    assert_eq!(collect(&run), Ok(BTreeMap::from([picture, verdict])));
    run.outputs.remove(&("mosaic".into(), "png".into()));
    assert!(matches!(collect(&run), Err(EvalError::NotReady { .. })));
}

#[test]
fn pauses_between_attempts_grow_to_their_limit_within_the_jitter() {
    let still = Backoff { initial_ms: 1000, factor_milli: 2000, max_ms: 5000, jitter_milli: 0 };
    let pauses: Vec<u64> = (1..6).map(|made| still.delay_ms(made, 77)).collect();
    assert_eq!(pauses, [1000, 2000, 4000, 5000, 5000]);
    let loose = Backoff { jitter_milli: 200, ..still };
    assert_eq!((loose.delay_ms(1, 0), loose.delay_ms(1, u32::MAX)), (800, 1200));
    let wild = Backoff {
        initial_ms: u64::MAX,
        factor_milli: u32::MAX,
        max_ms: u64::MAX,
        jitter_milli: 1000,
    };
    assert!(wild.delay_ms(u32::MAX, u32::MAX) > 0);
    let retry = Retry::default();
    assert!(retry.allows(2, FailureClass::Infra));
    assert!(!retry.allows(3, FailureClass::Infra) && !retry.allows(1, FailureClass::Exit));
}
