//! Services on a node that offers none: what is deployed, shown, changed and refused without a container engine.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::Place;

const TIMEOUT: Duration = Duration::from_secs(20);

const HELLO: &str = "\
opencloud: service/v1
name: hello
description: Says hello
run: {container: {image: image, args: [/bin/hello]}}
ports: {http: 8080}
replicas: 2
health: {http: {path: /healthz}}
needs: {cpu: 0.5, memory: 64MiB, disk: 16MiB}
";

/// A document, and beside it the directory that it calls its image.
fn document(place: &Place, name: &str, text: &str) -> String {
    place.file("image/oci-layout", "{}");
    place.file(name, text)
}

#[test]
fn a_service_is_deployed_listed_changed_and_removed() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let none = place.say("service list").expect(0);
    assert!(none.stderr.contains("opencloud service deploy FILE"), "{}", none.stderr);
    let first = document(&place, "hello.yaml", HELLO);
    let said = place.say(&format!("service deploy {first}")).expect(0).stdout;
    assert_eq!(said, "revision 1 of hello is deployed\n");
    let again = place.say(&format!("service deploy {first} --output json")).expect(0).json();
    assert_eq!((&again["revision"], &again["is_new"]), (&1.into(), &false.into()));

    let list = place.say("service list --output json").expect(0).json();
    assert_eq!((&list[0]["name"], &list[0]["replicas"]), (&"hello".into(), &2.into()), "{list}");
    assert_eq!(list[0]["ports"]["http"], 8080);
    let table = place.say("service list").expect(0).stdout;
    assert!(table.contains("hello") && table.contains("0/2") && table.contains("http 8080"));

    // Nobody offers services, and the service says so.
    let shown = place.say("service show hello").expect(0).stdout;
    assert!(shown.contains("waiting") && shown.contains("2 replicas are wanted"), "{shown}");
    let whole = place.say("service show hello --output json").expect(0).json();
    let reasons = whole["replicas_now"][0]["reasons"].to_string();
    assert!(
        reasons.contains("does not have `container`") || reasons.contains("container"),
        "{reasons}"
    );
    assert_eq!(place.say("run list --output json").expect(0).json(), Value::Array(Vec::new()));

    let second = document(&place, "second.yaml", &HELLO.replace("bin/hello", "bin/hallo"));
    let said = place.say(&format!("service update hello {second}")).expect(0).stdout;
    assert_eq!(said, "revision 2 of hello is deployed\n");
    let said = place.say("service rollback hello").expect(0).stdout;
    assert_eq!(said, "revision 1 of hello is wanted again\n");
    let missing = place.say("service rollback hello --to 7").expect(1);
    assert!(missing.stderr.contains("has no revision 7"), "{}", missing.stderr);
    place.say("service scale hello 5").expect(0);
    let whole = place.say("service show hello --output json").expect(0).json();
    assert_eq!((&whole["replicas"], &whole["revision"]), (&5.into(), &1.into()), "{whole}");
    let many = place.say("service scale hello 65").expect(1);
    assert!(many.stderr.contains("at most 64 are allowed"), "{}", many.stderr);
    place.say("service logs hello").expect(0);
    let wrong = place.say("service connect hello --port admin").expect(1);
    assert!(wrong.stderr.contains("its ports are http (8080)"), "{}", wrong.stderr);
    let nowhere = place.say("service connect hallo --output json").expect(1).problem();
    assert_eq!(nowhere["code"], "no_service", "{nowhere}");
    place.say("service connect hello --port http:x").expect(64);

    // Under another name it is another service.
    place.say(&format!("service deploy {first} --name hello-2")).expect(0);
    let named = place.say(&format!("service deploy {first} --name Hello")).expect(1);
    assert!(named.stderr.contains("`Hello` is no name for a service"), "{}", named.stderr);
    place.say("service remove hello").expect(0);
    let deadline = Instant::now() + TIMEOUT;
    while place.say("service list --output json").expect(0).json().as_array().unwrap().len() > 1 {
        assert!(Instant::now() < deadline, "the service does not go");
    }
    let gone = place.say("service show hello --output json").expect(1).problem();
    assert_eq!((&gone["code"], &gone["status"]), (&"no_service".into(), &404.into()), "{gone}");
    assert_eq!(node.terminate(), 0);
}

#[test]
fn services_come_back_after_a_restart() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let file = document(&place, "hello.yaml", HELLO);
    place.say(&format!("service deploy {file}")).expect(0);
    assert_eq!(node.terminate(), 0);
    let node = place.up();
    let whole = place.say("service show hello --output json").expect(0).json();
    assert_eq!((&whole["revision"], &whole["replicas"]), (&1.into(), &2.into()), "{whole}");
    let record = place.say("catalog show service/hello --output json").expect(0).json();
    assert_eq!(record["resource"]["detail"]["reach"]["ports"][0]["name"], "http", "{record}");
    assert_eq!(node.terminate(), 0);
}

#[test]
fn what_is_wrong_with_a_service_is_told_with_its_place() {
    let place = Place::new();
    place.init();
    let node = place.up();
    let wrong = HELLO.replace("ports: {http: 8080}", "ports: {http: 0}");
    let file = document(&place, "wrong.yaml", &wrong);
    let told = place.say(&format!("service deploy {file}")).expect(1).stderr;
    assert!(told.contains("wrong.yaml:5:"), "{told}");
    let workflow = document(&place, "flow.yaml", "opencloud: workflow/v1\nname: x\n");
    let told = place.say(&format!("service deploy {workflow}")).expect(1).stderr;
    assert!(told.contains("service/v1"), "{told}");
    let absent = document(&place, "absent.yaml", &HELLO.replace("image: image", "image: nowhere"));
    let told = place.say(&format!("service deploy {absent}")).expect(1).stderr;
    assert!(told.contains("there is no directory") && told.contains("nowhere"), "{told}");
    let good = document(&place, "hello.yaml", HELLO);
    let told = place.say(&format!("service update hello {good}")).expect(1).stderr;
    assert!(told.contains("no service is called `hello` here"), "{told}");
    assert!(told.contains("hint: `opencloud service list` shows them"), "{told}");
    let told = place.say("service show ../runs").expect(1).stderr;
    assert!(told.contains("no service is called `../runs`"), "{told}");
    assert_eq!(node.terminate(), 0);
}
