//! The workflow document through its public door.

mod params;
mod problems;
mod properties;
mod tasks;

use scheduler::workflow::Workflow;

/// A document that uses every part of the form.
const TERRAIN: &str = r#"opencloud: workflow/v1
name: terrain
description: Shaded relief from a height map.
params:
  dem: {type: file, description: The height map.}
  tiles: {type: int, default: 6, min: 1, max: 64}
  share: {type: dir, optional: true}
  mode: {type: text, default: fast, enum: [fast, exact]}
x-retry: &retry {attempts: 5, on: [infra, exit], backoff: {initial: 2s, factor: 1.5, max: {minutes: 1}, jitter: 0.1}}
steps:
  split:
    description: Cuts the map.
    run:
      wasi:
        module: bin/split.wasm
        args: [--tiles, {param: tiles}, --id, 007, {in: dem}, out]
        env: {MODE: {param: mode}, LEVEL: 3}
        fuel: true
    in:
      dem: {param: dem, path: dem.pgm}
    out:
      tiles: {files: tiles/*.dem}
      meta: {value: meta.json}
  slope:
    run:
      wasi:
        module: bin/slope.wasm
        argv0: inclination
        args: [{in: tile}, {index: true}, {var: tile.name}, {expr: "params.tiles * 2 + index"}]
        stdin: {in: settings}
        mounts: {/share: {param: share}, /data: {dir: data/ref}}
    in:
      tile: {var: tile}
      settings: {value: {sun: [1, 2.5], name: ü}, path: conf/settings.json}
    out:
      slope: {file: slope.dem}
      log: {stdout: true}
    map: {over: {from: split.tiles}, as: tile, max_parallel: 4}
    retry: *retry
    timeout: 5m
    needs: {cpu: 0.5, memory: 256MiB, disk: 1GB, arch: x86_64, runtime: wasi}
  check:
    run: {wasi: {module: bin/check.wasm, args: [{in: report}]}}
    in: {report: {from: split.meta}}
    out: {ok: {value: ok.json}}
    when: params.tiles > 1 && steps.split.meta.count > 1
  mosaic:
    run: {wasi: {module: bin/mosaic.wasm, args: [{in: slopes}, {in: check}]}}
    in:
      slopes: {from: slope.slope, path: parts}
      check: {from: check.ok, optional: true}
    out: {png: {file: mosaic.png}, all: {dir: out}}
    after: [check, slope]
outputs:
  picture: {from: mosaic.png}
  verdict: {from: check.ok, optional: true}
"#;

fn terrain() -> Workflow {
    Workflow::parse(TERRAIN).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A document with these lines below `steps:`, indented by two.
fn with_steps(steps: &str) -> String {
    format!("opencloud: workflow/v1\nname: w\nsteps:\n{steps}")
}

/// What the parser says about a document it has to refuse.
fn problems(text: &str) -> String {
    match Workflow::parse(text) {
        Ok(_) => panic!("this should have been refused:\n{text}"),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn every_example_of_the_repository_reads() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    for entry in std::fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path().join("workflow.yaml");
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let workflow = Workflow::parse(&text)
            .unwrap_or_else(|problems| panic!("{}:\n{problems}", path.display()));
        // What an example fetches before it runs is not in the repository.
        let fetched = |path: &str| path.starts_with("bundle/");
        for asset in workflow.asset_paths().into_iter().filter(|a| !fetched(&a.path)) {
            assert!(
                path.with_file_name(&asset.path).exists(),
                "{}: {}",
                path.display(),
                asset.path
            );
        }
    }
}
