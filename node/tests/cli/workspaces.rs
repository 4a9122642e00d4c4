//! What a user has chosen to work with.

use crate::support::Place;

#[test]
fn a_workspace_keeps_what_was_chosen_over_a_restart() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let file = place.file("dem.txt", "heights");
    place.say(&format!("data add {file} --name Heights")).expect(0);
    place.run(&["workspace", "create", "floods", "--about", "the lower valley"]).expect(0);
    let again = place.say("workspace create floods").expect(1);
    assert!(again.stderr.contains("already"), "{}", again.stderr);
    place.say("workspace add floods compute/main data/").expect(0);
    place.run(&["workspace", "note", "floods", "ask the office"]).expect(0);
    place
        .run(&[
            "workspace",
            "search",
            "floods",
            "own",
            "--filter",
            "kind = data and name = Heights",
        ])
        .expect(0);
    let broken = place.file("draft.yaml", "not yet: [");
    place.say(&format!("workspace workflow floods draft --file {broken}")).expect(0);
    assert!(place.say("workspace search floods own").expect(0).stdout.contains("Heights"));
    let wrong = place.run(&["workspace", "search", "floods", "bad", "--filter", "cpu >"]).expect(1);
    assert!(wrong.stderr.contains("search `bad`"), "{}", wrong.stderr);
    place.say("workspace show a/b").expect(64);
    assert_eq!(node.terminate(), 0);

    let node = place.up();
    let shown = place.say("workspace show floods --output json").expect(0).json();
    assert_eq!((&shown["version"], &shown["notes"]), (&5.into(), &"ask the office".into()));
    let kinds: Vec<_> = shown["resources"].as_array().unwrap().iter().map(|r| &r["kind"]).collect();
    assert_eq!(kinds, ["compute", "data"]);
    let draft = place.say("workspace workflow floods draft").expect(0).stdout;
    assert_eq!(draft, "not yet: [");
    // What its author withdraws stays chosen, and is said to be gone.
    place.say("workspace drop floods compute/main").expect(0);
    let id = shown["resources"][1]["id"].as_str().unwrap();
    place.say(&format!("catalog withdraw {}", id.split_once('/').unwrap().1)).expect(0);
    assert!(place.say("workspace show floods").expect(0).stdout.contains("not in the catalogue"));
    let none = place.say("workspace drop floods data/other").expect(1);
    assert!(none.stderr.contains("has no resource") && none.stderr.contains("hint: "));
    place.say("workspace remove floods").expect(0);
    place.say("workspace show floods").expect(1);
    assert_eq!(node.terminate(), 0);
}
