//! Objects as clients write them, put together field by field.

use super::*;
use serde_json::json;

fn number(number: u32, value: u64) -> Vec<u8> {
    let mut bytes = varint(u64::from(number) << 3);
    bytes.extend(varint(value));
    bytes
}

fn bytes(number: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let mut bytes = varint(u64::from(number) << 3 | 2);
    bytes.extend(varint(value.len() as u64));
    bytes.extend(value);
    bytes
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn body(api_version: &str, kind: &str, raw: &[Vec<u8>]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version), bytes(2, kind)].concat();
    [MAGIC.to_vec(), bytes(1, type_meta), bytes(2, raw.concat()), bytes(3, ""), bytes(4, "")].concat()
}

fn decoded(api_version: &str, kind: &str, raw: &[Vec<u8>]) -> Decoded {
    decode(&body(api_version, kind, raw)).unwrap()
}

#[test]
fn a_pod_becomes_what_it_is_in_json() {
    let port = [bytes(1, ""), number(2, 0), number(3, 80), bytes(4, "TCP"), bytes(5, "")].concat();
    let variable = [bytes(1, "A"), bytes(2, "")].concat();
    let limits = [bytes(1, "cpu"), bytes(2, bytes(1, "500m"))].concat();
    // A probe's action stands in a message of its own, and so does its port.
    let http = [bytes(1, "/"), bytes(2, [number(1, 1), number(2, 0), bytes(3, "web")].concat())].concat();
    let probe = [bytes(1, bytes(2, http)), number(2, 0), number(3, 1)].concat();
    let container = [
        bytes(1, "main"),
        bytes(2, "image:1"),
        bytes(3, "sleep"),
        bytes(3, ""),
        bytes(6, port),
        bytes(7, variable),
        bytes(8, bytes(1, limits)),
        bytes(10, probe),
        bytes(15, [number(2, 0), number(4, 1000)].concat()),
        number(17, 0),
    ];
    let security = [number(2, 0), bytes(4, [varint(5), varint(6)].concat()), number(4, 7)].concat();
    let spec = [
        bytes(1, [bytes(1, "empty"), bytes(2, bytes(2, ""))].concat()),
        bytes(2, container.concat()),
        bytes(3, "Always"),
        number(4, 0),
        number(11, 1),
        bytes(14, security),
    ];
    let label = [bytes(1, "app"), bytes(2, "web")].concat();
    let metadata = [bytes(1, "web"), bytes(3, ""), number(7, 0), bytes(8, ""), bytes(11, label)];
    let pod = decoded("v1", "Pod", &[bytes(1, metadata.concat()), bytes(2, spec.concat()), bytes(3, "")]);
    let expected = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "volumes": [{"name": "empty", "emptyDir": {}}],
            "containers": [{
                "name": "main", "image": "image:1", "command": ["sleep", ""],
                "ports": [{"containerPort": 80, "protocol": "TCP"}], "env": [{"name": "A"}],
                "resources": {"limits": {"cpu": "500m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "timeoutSeconds": 1},
                "securityContext": {"privileged": false, "runAsUser": 1000},
            }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 0, "hostNetwork": true,
            "securityContext": {"runAsUser": 0, "supplementalGroups": [5, 6, 7]},
        },
    });
    assert_eq!(pod, Decoded { object: expected, ..Decoded::default() });
}

#[test]
fn maps_times_and_managed_fields_keep_their_meaning() {
    let time = [number(1, 1_800_000_000), number(2, 5)].concat();
    let manager =
        [bytes(1, "m"), bytes(2, "Update"), bytes(3, "v1"), bytes(4, &time), bytes(7, bytes(1, r#"{"f:data":{}}"#))];
    let metadata = [bytes(1, "a"), bytes(8, time), bytes(17, manager.concat())].concat();
    let entry = |key: &str, value: &[u8]| [bytes(1, key), bytes(2, value)].concat();
    let secret = [bytes(1, metadata), bytes(2, entry("k", b"\xff\0")), bytes(2, bytes(1, "e")), number(5, 0)];
    let expected = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "a", "creationTimestamp": "2027-01-15T08:00:00Z", "managedFields": [{
            "manager": "m", "operation": "Update", "apiVersion": "v1", "time": "2027-01-15T08:00:00Z",
            "fieldsV1": {"f:data": {}}}]},
        "data": {"k": "/wA=", "e": ""}, "immutable": false,
    });
    assert_eq!(decoded("v1", "Secret", &secret).object, expected);
    let event_time = [number(1, 1_800_000_000), number(2, 1_234_999)].concat();
    let event = decoded("v1", "Event", &[bytes(10, event_time)]).object;
    assert_eq!(event["eventTime"], "2027-01-15T08:00:00.001234Z");
}

#[test]
fn numbers_are_signed_and_options_of_deletions_have_every_group() {
    let minus_one = u64::MAX;
    let options = decoded("apps/v1", "DeleteOptions", &[number(1, minus_one), bytes(2, bytes(1, "u"))]).object;
    let expected = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": -1, "preconditions": {"uid": "u"}});
    assert_eq!(options, expected);
    let bound = |raw: Vec<u8>| {
        let strategy = bytes(4, bytes(2, bytes(1, raw)));
        let deployment = decoded("apps/v1", "Deployment", &[bytes(2, strategy)]).object;
        deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"].clone()
    };
    assert_eq!(bound([number(1, 0), number(2, 3), bytes(3, "")].concat()), 3);
    assert_eq!(bound([number(1, 1), number(2, 0), bytes(3, "25%")].concat()), "25%");
}

#[test]
fn odd_fields_are_named() {
    let container = [bytes(1, "c"), bytes(99, "x"), bytes(1, "d")].concat();
    let pod = decoded("v1", "Pod", &[bytes(2, bytes(2, container)), number(4, 1)]);
    assert_eq!(pod.object["spec"]["containers"], json!([{"name": "d"}]));
    assert_eq!(pod.unknown, ["spec.containers[0].<99>", "<4>"]);
    assert_eq!(pod.duplicates, ["spec.containers[0].name"]);
}

#[test]
fn what_is_no_object_is_refused_with_its_place() {
    let pod = |raw: Vec<u8>| body("v1", "Pod", &[raw]);
    for (body, expected) in [
        (b"{}".to_vec(), "does not begin with \"k8s\\0\""),
        (MAGIC.to_vec(), "no kind \"\" in apiVersion \"\""),
        ([MAGIC, &bytes(9, "")].concat(), "the envelope has a field that is not known"),
        ([MAGIC, &[0x0a, 9]].concat(), "the envelope is cut off"),
        ([MAGIC, &bytes(3, "gzip")].concat(), "contentEncoding \"gzip\" is not supported"),
        ([MAGIC, &bytes(4, "text/plain")].concat(), "contentType \"text/plain\" is not supported"),
        (body("v1", "Nothing", &[]), "no kind \"Nothing\" in apiVersion \"v1\""),
        (body("v1", "PodSpec.x", &[]), "no kind \"PodSpec.x\" in apiVersion \"v1\""),
        (pod(number(1, 1)), "metadata: has another type in its message"),
        (pod(bytes(2, bytes(2, bytes(1, b"\xff")))), "spec.containers[0].name: is not UTF-8"),
        (pod(bytes(2, bytes(2, [0x0a, 5]))), "spec.containers[0]: is cut off"),
        (pod(bytes(1, bytes(8, number(1, u64::MAX << 40)))), "metadata.creationTimestamp: is not a time"),
        (pod(bytes(1, bytes(11, number(3, 1)))), "metadata.labels: has an entry with more than key and value"),
        (pod(bytes(1, bytes(17, bytes(7, bytes(1, "{"))))), "metadata.managedFields[0].fieldsV1: does not hold JSON"),
        (pod(vec![0x12, 0x84, 0x80, 0x80, 0x80, 0x7f]), "Pod: is cut off"),
    ] {
        let message = decode(&body).unwrap_err().to_string();
        assert_eq!(message, expected);
    }
}

#[test]
fn an_object_has_a_bound() {
    let empty = bytes(2, "");
    let containers = empty.repeat(MAX_VALUES + 1);
    let error = decode(&body("v1", "Pod", &[bytes(2, containers)])).unwrap_err().to_string();
    assert!(error.ends_with("the object has too many values"), "{error}");
}

#[test]
fn lists_that_are_values_of_a_map_stand_in_a_message_of_their_own() {
    let extra = |values: Vec<u8>| bytes(5, [bytes(1, "k"), bytes(2, values)].concat());
    let review = |values| {
        let spec = [bytes(3, "alice"), extra(values)].concat();
        decode(&body("authorization.k8s.io/v1", "SubjectAccessReview", &[bytes(2, spec)]))
    };
    let two = review([bytes(1, "a"), bytes(1, "b")].concat()).unwrap().object;
    assert_eq!(two["spec"], json!({"user": "alice", "extra": {"k": ["a", "b"]}}));
    assert_eq!(review(Vec::new()).unwrap().object["spec"]["extra"], json!({"k": []}));
    let wrong = review(bytes(2, "a")).unwrap_err().to_string();
    assert_eq!(wrong, "spec.extra.k: has a list with more than items");
}
