//! Bad documents and the exact text that their author sees.

use scheduler::workflow::{ALIAS_NODES_MAX, DIAGNOSTICS_MAX, DOCUMENT_LEN_MAX, Workflow};

use crate::{problems, with_steps};

const HEAD: &str = "opencloud: workflow/v1\nname: w\n";
const STEPS: &str = "steps: {a: {run: {wasi: {module: a.wasm}}}}\n";

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    assert_eq!(problems(text).lines().collect::<Vec<_>>(), expected, "{text}");
}

/// One step `b` with `fields`, after a step `a` with outputs of every kind and a skippable step `c`.
#[track_caller]
fn check_step(fields: &str, expected: &[&str]) {
    let params = "params: {n: {type: int}, f: {type: file}, d: {type: dir}, l: {type: list}, o: {type: text, optional: true}}\n";
    let text = format!(
        "{HEAD}{params}steps:\n\
         \x20 a: {{run: {{wasi: {{module: a.wasm}}}}, out: {{f: {{file: f}}, fs: {{files: t/*.x}}, v: {{value: v.json}}, d: {{dir: d}}}}}}\n\
         \x20 c: {{run: {{wasi: {{module: a.wasm}}}}, out: {{f: {{file: f}}}}, when: params.n > 1}}\n\
         \x20 b: {{{fields}}}\n"
    );
    check(&text, expected);
}

const RUN: &str = "run: {wasi: {module: b.wasm}}";

#[test]
fn text_that_is_no_document_stops_at_once() {
    check("", &["1:1: document is empty"]);
    check("# only a comment\n", &["1:1: document is empty"]);
    check("hello", &["1:1: expected a map, found text"]);
    check("[1, 2]", &["1:1: expected a map, found a list"]);
    check("a: !!int 1", &["1:4: a: tag `tag:yaml.org,2002:!int` is not allowed"]);
    check("a: 1\n---\nb: 2\n", &["2:1: more than one document in the text"]);
    check("[a]: 1", &["1:1: a key has to be plain text"]);
    check("a: &x [*x]", &["1:8: a[0]: alias inside the value it stands for"]);
    let long = "#".repeat(DOCUMENT_LEN_MAX + 1);
    check(&long, &["1:1: document of 1048577 bytes, at most 1048576 are allowed"]);
    assert!(problems("a: [1, 2\n").contains("not YAML: "));
    assert!(problems("a: \"\n").contains("not YAML: "));
    assert!(problems("a: *b\n").contains("not YAML: "));
    assert!(problems(&"[".repeat(100)).contains("nested deeper than 32 levels"));
    assert!(problems(&"{a: ".repeat(100)).contains("nested deeper than 32 levels"));
}

#[test]
fn aliases_cannot_multiply_a_document() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..9 {
        let before = n - 1;
        let refs = vec![format!("*a{before}"); 10].join(", ");
        laughs.push_str(&format!("a{n}: &a{n} [{refs}]\n"));
    }
    let found = problems(&laughs);
    assert!(found.contains(&format!("stand for more than {ALIAS_NODES_MAX} values")), "{found}");
}

#[test]
fn a_document_of_another_kind_is_not_read_further() {
    let missing = "1:1: key `opencloud` is missing";
    check("name: w\nsteps: 5\n", &[missing]);
    let other = "`workflow/v2` is not a document of this kind: expected `workflow/v1`";
    check("opencloud: workflow/v2\nname: 5\n", &[&format!("1:12: opencloud: {other}")]);
}

#[test]
fn the_head_of_the_document_is_checked() {
    check(
        "opencloud: workflow/v1\n",
        &["1:1: key `name` is missing", "1:1: key `steps` is missing"],
    );
    check(
        &format!("opencloud: workflow/v1\nname: My_flow\nstep: 1\n{STEPS}"),
        &[
            "2:7: name: `My_flow` is not a workflow name: begin with a small letter, then small letters, digits and `-`, at most 64",
            "3:1: unknown key `step` (did you mean `steps`?)",
        ],
    );
    check(
        &format!("opencloud: workflow/v1\nname: 12\n{STEPS}"),
        &["2:7: name: expected text, found a whole number (put it in quotes)"],
    );
    check(&format!("{HEAD}steps: {{}}\n"), &["3:8: steps: expected at least one step, found none"]);
    check(&format!("{HEAD}steps: [a]\n"), &["3:8: steps: expected a map, found a list"]);
}

#[test]
fn duplicate_keys_are_found_at_any_depth() {
    check(
        &format!(
            "{HEAD}name: w\nx-mine: {{a: 1, a: 2}}\nsteps:\n  a: {{{RUN}}}\n  a: {{{RUN}, fuel: 1}}\n"
        ),
        &[
            "3:1: key `name` is given twice (keep one of the two)",
            "4:16: x-mine: key `a` is given twice (keep one of the two)",
            "7:3: steps: key `a` is given twice (keep one of the two)",
        ],
    );
}

#[test]
fn params_are_checked_against_their_own_type() {
    check(
        &format!(
            "{HEAD}params:\n\
             \x20 a: {{type: integer}}\n\
             \x20 b: {{type: int, default: 'x', min: 1.5}}\n\
             \x20 c: {{type: int, default: 9, max: 8}}\n\
             \x20 d: {{type: file, default: x.txt}}\n\
             \x20 e: {{type: text, default: x, enum: [y, z], min: 1}}\n\
             \x20 f: {{default: 1}}\n\
             \x20 9: {{type: int}}\n{STEPS}"
        ),
        &[
            "4:13: params.a.type: unknown type `integer` (one of bool, int, float, text, file, dir, list)",
            "5:27: params.b.default: parameter `b` has to be a whole number, not text",
            "5:37: params.b.min: parameter `b` has to be a whole number, not a number",
            "6:27: params.c.default: parameter `c` is 9, but has to be at most 8",
            "7:28: params.d.default: `default` has no meaning for a parameter of type file (for a fixed one use `in: {x: {file: path}}`)",
            "8:28: params.e.default: parameter `e` is `x`, but has to be one of `y`, `z`",
            "8:50: params.e.min: `min` has no meaning for a parameter of type text",
            "9:6: params.f: key `type` is missing",
            "10:3: params.9: `9` is not a parameter name: begin with a letter, then letters, digits, `_` and `-`, at most 64",
        ],
    );
}

#[test]
fn unknown_keys_and_words_get_a_suggestion() {
    check_step(
        "run: {wasi: {modul: b.wasm}}, timout: 5m, needs: {mem: 1GiB, runtime: docker}, retry: {on: [crash], attempts: 0}",
        &[
            "7:19: steps.b.run.wasi: key `module` is missing",
            "7:20: steps.b.run.wasi: unknown key `modul` (did you mean `module`?)",
            "7:37: steps.b: unknown key `timout` (did you mean `timeout`?)",
            "7:57: steps.b.needs: unknown key `mem` (known keys: cpu, memory, disk, arch, runtime, network, devices)",
            "7:77: steps.b.needs.runtime: unknown runtime `docker` (one of wasi, container, vm, slurm)",
            "7:99: steps.b.retry.on[0]: unknown failure class `crash` (one of infra, lost_lease, exit, timeout, oom, output)",
            "7:117: steps.b.retry.attempts: 0 is out of range, 1 to 100 is allowed",
        ],
    );
    check_step(
        "run: {}",
        &["7:12: steps.b.run: expected exactly one of `wasi`, `container`, `vm`, `slurm`"],
    );
    check_step(
        "run: {container: {image: img, module: b.wasm}}, needs: {runtime: wasi}",
        &[
            "7:37: steps.b.run.container: unknown key `module` (known keys: image, entrypoint, args, env, stdin, mounts)",
            "7:72: steps.b.needs.runtime: unknown runtime `wasi` (`run:` says `container`)",
        ],
    );
    check_step(
        "run: {docker: {}}",
        &["7:13: steps.b.run: unknown key `docker` (known keys: wasi, container, vm, slurm)"],
    );
    check_step(
        "run: {vm: {kernel: k, disk: d}}",
        &["7:17: steps.b.run.vm: expected exactly one of `kernel`, `disk`"],
    );
    check_step(
        "run: {vm: {disk: d, ssh_keys: [restrict, ssh-rsa AAAA]}}",
        &[
            "7:38: steps.b.run.vm.ssh_keys[0]: not a public key: it begins with `restrict`, not with a kind such as `ssh-ed25519`",
            "7:48: steps.b.run.vm.ssh_keys[1]: not a public key: what follows `ssh-rsa` is not the Base64 of such a key",
        ],
    );
    check_step(
        "run: {vm: {kernel: k, ssh_keys: []}}",
        &["7:17: steps.b.run.vm: expected exactly one of `kernel`, `disk` with `ssh_keys`"],
    );
    check_step(
        "run: {vm: {kernel: k, user_data: u}}",
        &["7:17: steps.b.run.vm: expected exactly one of `kernel`, `disk` with `user_data`"],
    );
    check_step(
        "run: {vm: {disk: d, append: quiet}}",
        &["7:17: steps.b.run.vm: expected exactly one of `disk`, `kernel` with `append`"],
    );
    check_step("run: {slurm: {}}", &["7:20: steps.b.run.slurm: key `program` is missing"]);
    check_step(
        "run: {wasi: {module: b.wasm}}, <<: 5, x-mine: [1]",
        &[
            "7:38: steps.b: unknown key `<<` (merge keys are not part of YAML 1.2: alias whole values)",
        ],
    );
}

#[test]
fn references_have_to_name_what_exists() {
    check_step(
        &format!(
            "{RUN}, in: {{x: {{param: nn}}, y: {{from: aa.f}}, z: {{from: a.ff}}, w: {{from: a}}, \
             v: {{var: tile}}, u: {{index: true}}, t: {{frm: a.f}}, s: {{}}, r: {{param: n, from: a.f}}}}, after: [cc]"
        ),
        &[
            "7:54: steps.b.in.x.param: unknown parameter `nn` (did you mean `n`?)",
            "7:69: steps.b.in.y.from: unknown step `aa` (did you mean `a`?)",
            "7:86: steps.b.in.z.from: step `a` has no output `ff` (did you mean `f`?)",
            "7:103: steps.b.in.w.from: `a` does not name an output: write `step.output` (for example `a.d`)",
            "7:116: steps.b.in.v.var: `tile` is used in a step without `map`",
            "7:134: steps.b.in.u.index: `index` is used in a step without `map`",
            "7:145: steps.b.in.t: unknown key `frm` (did you mean `from`?)",
            "7:159: steps.b.in.s: expected exactly one of {param: …}, {from: …}, {var: …}, {index: …}, {file: …}, {dir: …}, {value: …}, {expr: …}",
            "7:166: steps.b.in.r: expected exactly one of {param: …}, {from: …}, {var: …}, {index: …}, {file: …}, {dir: …}, {value: …}, {expr: …}",
            "7:198: steps.b.after[0]: unknown step `cc` (did you mean `c`?)",
        ],
    );
    check_step(
        "run: {wasi: {module: b.wasm, args: [{in: y}, {from: a.f}]}}, in: {x: {param: n}}",
        &[
            "7:48: steps.b.run.wasi.args[0].in: unknown input `y`",
            "7:53: steps.b.run.wasi.args[1]: unknown key `from` (known keys: param, in, var, index, expr)",
        ],
    );
    check_step(
        &format!(
            "{RUN}, map: {{over: [1], as: tile}}, in: {{x: {{var: tiles}}, y: {{var: tile.a}}}}"
        ),
        &[
            "7:80: steps.b.in.x.var: unknown variable `tiles` (did you mean `tile`?)",
            "7:97: steps.b.in.y.var: expected a map, but this is a whole number",
        ],
    );
}

#[test]
fn a_map_where_the_text_of_an_expression_is_wanted_is_told_how_to_write_it() {
    let when = "7:44: steps.b.when: expected an expression, found";
    let takes = "(`when` takes the text of a CEL expression, as in";
    for (given, found, example) in [
        ("{expr: params.n > 3}", "a map", "when: params.n > 3"),
        ("{param: n}", "a map", "when: params.n"),
        ("{from: a.v}", "a map", "when: steps.a.v"),
        ("{if: 1}", "a map", "when: params.count > 1"),
        ("{expr: \"params.n == 'x: y'\"}", "a map", "when: 'params.n == ''x: y'''"),
        ("[params.n]", "a list", "when: params.count > 1"),
    ] {
        check_step(
            &format!("{RUN}, when: {given}"),
            &[&format!("{when} {found} {takes} `{example}`)")],
        );
    }
}

#[test]
fn expressions_are_checked_where_they_stand() {
    check_step(
        &format!("{RUN}, when: parms.n > 1"),
        &["7:44: steps.b.when: unknown name `parms` in the expression (did you mean `params`?)"],
    );
    check_step(
        &format!("{RUN}, when: params.n >"),
        &[
            "7:44: steps.b.when: not an expression: mismatched input '<EOF>' (line 1, character 11 of the expression)",
        ],
    );
    check_step(
        &format!("{RUN}, when: steps.a.w > 1, map: {{over: {{expr: tile}}, as: tile}}"),
        &[
            "7:44: steps.b.when: step `a` has no output `w`",
            "7:78: steps.b.map.over.expr: unknown name `tile` in the expression",
        ],
    );
    check_step(
        &format!("{RUN}, map: {{over: [1], as: params}}"),
        &[
            "7:59: steps.b.map.as: `params` is not a map variable: `params`, `steps` and `index` have a meaning of their own",
        ],
    );
}

#[test]
fn types_have_to_fit_where_they_are_known() {
    check_step(
        "run: {wasi: {module: {param: n}, args: [{param: f}, {param: l}], env: {A: {param: d}, B: {param: l}}}}",
        &[
            "7:36: steps.b.run.wasi.module: expected a file, but this is a whole number",
            "7:55: steps.b.run.wasi.args[0]: expected text or a number, but this is a file (stage it with `in:` and write `{in: name}` for its path)",
            "7:89: steps.b.run.wasi.env.A: expected text or a number, but this is a directory (stage it with `in:` and write `{in: name}` for its path)",
            "7:104: steps.b.run.wasi.env.B: expected text or a number, but this is a list",
        ],
    );
    check_step(
        "run: {wasi: {module: b.wasm, stdin: {in: x}, mounts: {/d: {from: a.f}, d: {param: d}, /../e: {dir: e}}}}, in: {x: {from: a.fs}}",
        &[
            "7:48: steps.b.run.wasi.stdin: expected a file, but this is a list of files",
            "7:72: steps.b.run.wasi.mounts./d: expected a directory, but this is a file",
            "7:78: steps.b.run.wasi.mounts.d: `d` is not an absolute path such as `/share`",
            "7:93: steps.b.run.wasi.mounts./../e: `/../e` is not an absolute path such as `/share`",
        ],
    );
    check_step(
        &format!("{RUN}, map: {{over: {{from: a.f}}}}"),
        &["7:57: steps.b.map.over: expected a list, but this is a file"],
    );
    check_step(
        &format!("{RUN}, map: {{over: {{range: [1, {{param: f}}]}}, max_parallel: 0}}"),
        &[
            "7:70: steps.b.map.over.range: expected a whole number, but this is a file",
            "7:90: steps.b.map.max_parallel: 0 is out of range, 1 to 4294967295 is allowed",
        ],
    );
    check_step(
        &format!("{RUN}, map: {{over: {{range: [1, 2, 3]}}}}"),
        &[
            "7:58: steps.b.map.over.range: expected two numbers: first and last, found a list of another length",
        ],
    );
    check_step(
        "run: {wasi: {module: b.wasm, args: [{var: item}]}}, map: {over: {from: a.fs}}",
        &[
            "7:49: steps.b.run.wasi.args[0]: expected text or a number, but this is a file (stage it with `in:` and write `{in: name}` for its path)",
        ],
    );
    check_step(
        "run: {wasi: {module: b.wasm, args: [~, [1]]}}",
        &[
            "7:43: steps.b.run.wasi.args[0]: expected text, a number or a reference, found nothing",
            "7:46: steps.b.run.wasi.args[1]: expected text, a number or a reference, found a list",
        ],
    );
}

#[test]
fn what_may_be_skipped_has_to_be_optional() {
    check_step(
        &format!(
            "{RUN}, in: {{x: {{from: c.f}}, y: {{from: c.f, optional: true}}, z: {{param: o}}}}"
        ),
        &[
            "7:53: steps.b.in.x.from: step `c` may be skipped and then has no output (add `optional: true` and expect nothing there)",
            "7:102: steps.b.in.z: expected a value, found an optional parameter (add `optional: true` and expect nothing there)",
        ],
    );
    check_step(
        "run: {wasi: {module: b.wasm, stdin: {from: c.f}}}, map: {over: {from: c.f, optional: true}}",
        &[
            "7:50: steps.b.run.wasi.stdin.from: step `c` may be skipped and then has no output (take it through an `in:` with `optional: true`)",
            "7:77: steps.b.map.over: expected a list, but this is a file",
        ],
    );
    let text = with_steps(
        "  a: {run: {wasi: {module: a.wasm}}, when: 'true', out: {f: {file: f}}}\noutputs: {x: {from: a.f}}\n",
    );
    check(
        &text,
        &[
            "5:21: outputs.x.from: step `a` may be skipped and then has no output (add `optional: true` and expect nothing there)",
        ],
    );
}

#[test]
fn paths_stay_inside_and_apart() {
    check_step(
        &format!(
            "{RUN}, in: {{x: {{file: /etc/passwd}}, y: {{file: ./y}}, z: {{dir: a/../b}}, w: {{param: f, path: ../w}}}}"
        ),
        &[
            "7:53: steps.b.in.x.file: `/etc/passwd` is not a plain relative path (no leading `/`, no `.` or `..`, no backslash)",
            "7:77: steps.b.in.y.file: `./y` is not a plain relative path (write `y`)",
            "7:92: steps.b.in.z.dir: `a/../b` is not a plain relative path (no leading `/`, no `.` or `..`, no backslash)",
            "7:121: steps.b.in.w.path: `../w` is not a plain relative path (no leading `/`, no `.` or `..`, no backslash)",
        ],
    );
    check_step(
        &format!(
            "{RUN}, in: {{x: {{param: f, path: a}}, y: {{param: f, path: a/b}}, z: {{param: f, path: c/d}}, w: {{param: f, path: c}}}}"
        ),
        &[
            "7:70: steps.b.in.y: `a/b` is in the way of `a`, staged for another input (give one a `path:`)",
            "7:122: steps.b.in.w: `c` is in the way of `c/d`, staged for another input (give one a `path:`)",
        ],
    );
    check_step(
        &format!(
            "{RUN}, out: {{x: {{files: '*/a'}}, y: {{files: plain}}, z: {{file: /z}}, w: {{}}, v: {{stdout: 1}}, u: {{file: a, dir: b}}}}"
        ),
        &[
            "7:55: steps.b.out.x.files: `*/a` is not a pattern: `*` belongs in the last component, as in `tiles/*.dem`",
            "7:74: steps.b.out.y.files: `plain` is not a pattern: `*` belongs in the last component, as in `tiles/*.dem`",
            "7:92: steps.b.out.z.file: `/z` is not a plain relative path (no leading `/`, no `.` or `..`, no backslash)",
            "7:100: steps.b.out.w: expected exactly one of `file`, `dir`, `files`, `value`, `stdout`",
            "7:116: steps.b.out.v.stdout: expected true or false, found a whole number",
            "7:123: steps.b.out.u: expected exactly one of `file`, `dir`, `files`, `value`, `stdout`",
        ],
    );
}

#[test]
fn durations_sizes_and_numbers_have_ranges() {
    check_step(
        &format!(
            "{RUN}, timeout: 5 minutes, needs: {{cpu: 0, memory: 1Gi, disk: -1}}, \
             retry: {{attempts: 101, backoff: {{initial: 31d, factor: 0.5, max: {{minute: 1}}, jitter: 2}}}}"
        ),
        &[
            "7:47: steps.b.timeout: `5 minutes` is not a duration: write `500ms`, `2s`, `5m`, `1h` or `{minutes: 5}`",
            "7:71: steps.b.needs.cpu: less than 0.001 is out of range, 1 to 4096 is allowed",
            "7:82: steps.b.needs.memory: `1Gi` is not a size: write `64MiB`, `1GB` or a number of bytes",
            "7:93: steps.b.needs.disk: `-1` is not a size: write `64MiB`, `1GB` or a number of bytes",
            "7:116: steps.b.retry.attempts: 101 is out of range, 1 to 100 is allowed",
            "7:140: steps.b.retry.backoff.initial: 2678400000 ms is out of range, 0 to 2592000000 is allowed",
            "7:153: steps.b.retry.backoff.factor: 0.5 is out of range, 1 to 100 is allowed",
            "7:164: steps.b.retry.backoff.max: unknown key `minute` (did you mean `minutes`?)",
            "7:184: steps.b.retry.backoff.jitter: 2 is out of range, 0 to 1 is allowed",
        ],
    );
    check_step(
        "run: {wasi: {module: 'blake3:12'}}, timeout: 0s, needs: {arch: [x]}",
        &[
            "7:28: steps.b.run.wasi.module: `blake3:12` is not a digest: it should look like `blake3:0f3a… (64 hex digits)`",
            "7:52: steps.b.timeout: 0 ms is out of range, 1 to 2592000000 is allowed",
            "7:70: steps.b.needs.arch: expected text, found a list",
        ],
    );
}

#[test]
fn a_cycle_names_its_steps() {
    let step = |id: &str, rest: &str| {
        format!(
            "  {id}: {{run: {{wasi: {{module: a.wasm}}}}, out: {{f: {{file: f}}, v: {{value: v}}}}, {rest}}}\n"
        )
    };
    let text = with_steps(
        &[
            step("a", "in: {x: {from: c.f, optional: true}}"),
            step("b", "after: [a]"),
            step("c", "when: steps.b.v == 1, in: {}"),
            step("d", "after: [d]"),
            step("e", "after: [a]"),
        ]
        .concat(),
    );
    check(
        &text,
        &[
            "4:3: steps.a: steps wait for each other: a -> b -> c -> a",
            "7:3: steps.d: steps wait for each other: d -> d",
        ],
    );
}

#[test]
fn a_flood_of_problems_is_cut() {
    let steps: String = (0..150).map(|n| format!("  s{n}: 5\n")).collect();
    let found = problems(&with_steps(&steps));
    assert_eq!(found.lines().count(), DIAGNOSTICS_MAX + 1);
    assert!(found.ends_with("50 more problems are not shown"), "{found}");
}

#[test]
fn too_many_steps_are_refused() {
    let steps: String = (0..10_001).map(|n| format!("  s{n}: 5\n")).collect();
    assert_eq!(problems(&with_steps(&steps)), "4:3: steps: 10001 steps, at most 10000 are allowed");
}

#[test]
fn json_is_read_by_the_same_door() {
    let json = r#"{"opencloud": "workflow/v1", "name": "w", "steps": {"a": {"run": {"wasi": {"module": "a.wasm", "argz": []}}}}}"#;
    check(json, &["1:96: steps.a.run.wasi: unknown key `argz` (did you mean `args`?)"]);
    assert!(Workflow::parse(&json.replace("argz", "args")).is_ok());
}

#[test]
fn devices_have_names_and_numbers_and_go_to_containers() {
    let image = "run: {container: {image: img}}";
    check_step(
        &format!("{image}, needs: {{devices: {{gpu: 1, fpga-2: 32}}}}"),
        &["7:56: steps.b.needs.devices: 33 devices, at most 32 are allowed"],
    );
    check_step(
        &format!("{image}, needs: {{devices: {{GPU: 1, gpu: 0, fpga: some, ../x: 1}}}}"),
        &[
            "7:57: steps.b.needs.devices.GPU: `GPU` is not a name of a device: begin with a small letter, then small letters, digits and `-`, at most 32",
            "7:70: steps.b.needs.devices.gpu: 0 is out of range, 1 to 32 is allowed",
            "7:79: steps.b.needs.devices.fpga: expected a whole number, found text",
            "7:85: steps.b.needs.devices.../x: `../x` is not a name of a device: begin with a small letter, then small letters, digits and `-`, at most 32",
        ],
    );
    check_step(
        &format!("{image}, needs: {{devices: [gpu]}}"),
        &["7:56: steps.b.needs.devices: expected a map, found a list"],
    );
    check_step(
        &format!("{image}, needs: {{devices: {{gpu: 1, gpu: 1}}}}"),
        &["7:65: steps.b.needs.devices: key `gpu` is given twice (keep one of the two)"],
    );
    for (run, at, runtime) in [
        (RUN, 55, "wasi"),
        ("run: {vm: {disk: d.qcow2}}", 52, "vm"),
        ("run: {slurm: {program: p}}", 52, "slurm"),
    ] {
        check_step(
            &format!("{run}, needs: {{devices: {{gpu: 1}}}}"),
            &[&format!(
                "7:{at}: steps.b.needs.devices: `{runtime}` steps get no devices (run it as a `container`, which gets them from its node)"
            )],
        );
    }
}
