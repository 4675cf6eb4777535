//! The API's socket, spoken to without a client library: answers to wrong requests, watches, lists in parts.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::testnode::{self, TestNode};

pub struct Answer {
    pub code: u16,
    pub headers: String,
    pub body: Value,
    pub text: String,
}

/// One request. `headers` are whole lines.
pub fn request(node: &TestNode, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(node.path("run/api.sock")).unwrap();
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{lines}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses the size does not read all of it.
    let _ = stream.write_all(body);
    let mut reader = BufReader::new(stream);
    let mut headers = String::new();
    while !headers.ends_with("\r\n\r\n") && reader.read_line(&mut headers).unwrap_or(0) > 0 {}
    let code = headers.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    let _ = reader.read_to_end(&mut body);
    let text = String::from_utf8_lossy(&body).into_owned();
    Answer { code, headers: headers.to_lowercase(), body: serde_json::from_slice(&body).unwrap_or_default(), text }
}

/// Method, path, headers, body; code and reason of the answer, and a part of its message.
type Case<'a> = (&'a str, String, &'a [&'a str], &'a [u8], u16, &'a str, &'a str);

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "Content-Type: application/json";
const PROTOBUF: &str = "Content-Type: application/vnd.kubernetes.protobuf";
const MERGE: &str = "Content-Type: application/merge-patch+json";
const STRATEGIC: &str = "Content-Type: application/strategic-merge-patch+json";
const APPLY: &str = "Content-Type: application/apply-patch+yaml";

#[tokio::test]
async fn wrong_requests_get_the_status_that_kubernetes_gives() {
    let Some(mut node) = testnode::start("apiwrong").await else { return };
    let map = |name: &str| format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"a":"1"}}}}"#);
    let created = request(&node, "POST", MAPS, &[JSON], map("m").as_bytes());
    assert_eq!((created.code, &created.body["data"]["a"]), (201, &json!("1")));
    let m = format!("{MAPS}/m");
    let large = vec![b' '; (3 << 20) + 1];
    let cases: &[Case<'_>] = &[
        ("GET", format!("{MAPS}/none"), &[], b"", 404, "NotFound", "configmaps \"none\" not found"),
        ("GET", "/api/v1/nothings".into(), &[], b"", 404, "NotFound", "could not find the requested resource"),
        ("GET", format!("{MAPS}?fieldSelector=data%3Dx"), &[], b"", 400, "BadRequest", "not a known field selector"),
        ("GET", "/api/v1/pods?fieldSelector=a%3Db".into(), &[], b"", 400, "BadRequest", "field label not supported: a"),
        ("GET", m.clone(), &["Accept: text/html"], b"", 406, "NotAcceptable", "application/json"),
        ("POST", MAPS.into(), &[JSON], br#"{"metadata":{"name":"m"}}"#, 409, "AlreadyExists", "already exists"),
        ("POST", MAPS.into(), &[JSON], b"{", 400, "BadRequest", "body is not JSON"),
        ("POST", MAPS.into(), &["Content-Type: text/plain"], b"{}", 415, "UnsupportedMediaType", "text/plain"),
        ("POST", MAPS.into(), &[JSON], &large, 413, "RequestEntityTooLarge", "3145728"),
        ("POST", MAPS.into(), &[JSON], br#"{"metadata":{"name":"UPPER"}}"#, 422, "Invalid", "metadata.name"),
        (
            "POST",
            MAPS.into(),
            &[JSON],
            br#"{"metadata":{"name":"n"},"data":{"../x":"1"}}"#,
            422,
            "Invalid",
            "data[../x]",
        ),
        ("POST", MAPS.into(), &[JSON], br#"{"metadata":{"name":"n"},"data":{"a":1}}"#, 400, "BadRequest", "data.a"),
        (
            "POST",
            format!("{MAPS}?fieldValidation=Strict"),
            &[JSON],
            br#"{"metadata":{"name":"n"},"date":{},"data":{},"data":{}}"#,
            400,
            "BadRequest",
            "duplicate field \"data\", unknown field \"date\"",
        ),
        ("POST", format!("{MAPS}?fieldValidation=Maybe"), &[JSON], b"{}", 400, "BadRequest", "fieldValidation"),
        ("POST", format!("{MAPS}?dryRun=Some"), &[JSON], br#"{"metadata":{"name":"n"}}"#, 400, "BadRequest", "dryRun"),
        (
            "PUT",
            m.clone(),
            &[JSON],
            br#"{"metadata":{"name":"m","resourceVersion":"1"}}"#,
            409,
            "Conflict",
            "has been modified",
        ),
        ("PUT", m.clone(), &[JSON], br#"{"metadata":{"name":"other"}}"#, 400, "BadRequest", "does not match"),
        ("PATCH", m.clone(), &[JSON], b"{}", 415, "UnsupportedMediaType", "strategic-merge-patch"),
        ("PATCH", m.clone(), &[MERGE], b"[]", 400, "BadRequest", "must be an object"),
        ("PATCH", m.clone(), &[STRATEGIC], br#"{"data":{"$patch":"x"}}"#, 400, "BadRequest", ".data.$patch"),
        ("PATCH", m.clone(), &[APPLY], b"{}", 400, "BadRequest", "fieldManager"),
        ("PATCH", format!("{m}?fieldManager=x"), &[APPLY], b"kind: Pod", 400, "BadRequest", "an apply patch must say"),
        (
            "PATCH",
            format!("{m}?fieldManager=x"),
            &[APPLY],
            b"{apiVersion: v1, kind: ConfigMap, metadata: x}",
            400,
            "BadRequest",
            "metadata must be an object",
        ),
        ("POST", MAPS.into(), &[PROTOBUF], b"{}", 400, "BadRequest", "does not begin with"),
        (
            "POST",
            MAPS.into(),
            &[PROTOBUF],
            b"k8s\0\x0a\x0d\x0a\x02v1\x12\x07Nothing",
            400,
            "BadRequest",
            "no kind \"Nothing\"",
        ),
        (
            "POST",
            MAPS.into(),
            &[PROTOBUF],
            b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x05\x0a\x03\x0a\x02n",
            400,
            "BadRequest",
            "metadata: is cut off",
        ),
        (
            "POST",
            format!("{MAPS}?fieldValidation=Strict"),
            &[PROTOBUF],
            b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x08\x0a\x03\x0a\x01n\x9a\x06\x00",
            400,
            "BadRequest",
            "strict decoding error: unknown field \"<99>\"",
        ),
        ("PATCH", format!("{m}?fieldManager=x"), &[APPLY], b"a: [", 400, "BadRequest", "body is not YAML"),
        ("DELETE", m.clone(), &[JSON], br#"{"preconditions":{"uid":"x"}}"#, 409, "Conflict", "UID in precondition: x"),
        ("DELETE", m.clone(), &[JSON], br#"{"propagationPolicy":"Some"}"#, 400, "BadRequest", "propagationPolicy"),
        ("DELETE", m.clone(), &[JSON], br#"{"gracePeriodSeconds":-1}"#, 400, "BadRequest", "gracePeriodSeconds"),
        ("GET", format!("{MAPS}?limit=x"), &[], b"", 400, "BadRequest", "limit"),
        ("GET", format!("{MAPS}?continue=x"), &[], b"", 400, "BadRequest", "continue"),
        ("GET", format!("{MAPS}?labelSelector=a%20in"), &[], b"", 400, "BadRequest", "labelSelector"),
        ("GET", format!("{MAPS}?resourceVersion=999999"), &[], b"", 504, "Timeout", "too large resource version"),
        (
            "GET",
            format!("{MAPS}?watch=1&resourceVersion=999999"),
            &[],
            b"",
            504,
            "Timeout",
            "too large resource version",
        ),
        ("GET", format!("{MAPS}?watch=1&sendInitialEvents=true"), &[], b"", 422, "Invalid", "resourceVersionMatch"),
        ("GET", format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Nearly"), &[], b"", 400, "BadRequest", "Nearly"),
        ("POST", m.clone(), &[JSON], b"{}", 405, "MethodNotAllowed", "POST"),
        ("GET", "/openapi/v3/apis/none/v1".into(), &[], b"", 404, "NotFound", "none"),
    ];
    for (method, path, headers, body, code, reason, part) in cases {
        let answer = request(&node, method, path, headers, body);
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert_eq!((answer.code, &answer.body["reason"]), (*code, &json!(reason)), "{method} {path}: {message}");
        assert_eq!((&answer.body["kind"], &answer.body["code"]), (&json!("Status"), &json!(code)), "{method} {path}");
        assert!(message.contains(part), "{method} {path}: {message}");
    }
    let warned =
        request(&node, "POST", &format!("{MAPS}?dryRun=All"), &[JSON], br#"{"metadata":{"name":"n"},"date":1}"#);
    assert!(
        warned.code == 201 && warned.headers.contains(r#"warning: 299 - "unknown field \"date\"""#),
        "{}",
        warned.headers
    );
    assert_eq!(request(&node, "GET", &format!("{MAPS}/n"), &[], b"").code, 404);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn lists_come_in_parts_of_one_version_and_watches_say_where_they_begin() {
    let Some(mut node) = testnode::start("apilist").await else { return };
    for name in ["a", "b", "c"] {
        let body = format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
        assert_eq!(request(&node, "POST", MAPS, &[JSON], body.as_bytes()).code, 201);
    }
    let first = request(&node, "GET", &format!("{MAPS}?limit=2"), &[], b"").body;
    assert_eq!((first["items"].as_array().unwrap().len(), &first["metadata"]["remainingItemCount"]), (2, &json!(1)));
    // What changes meanwhile is not in the rest of the list.
    assert_eq!(request(&node, "DELETE", &format!("{MAPS}/c"), &[], b"").code, 200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = request(&node, "GET", &format!("{MAPS}?limit=2&continue={token}"), &[], b"").body;
    assert_eq!(rest["items"][0]["metadata"]["name"], "c");
    assert_eq!(rest["metadata"], json!({"resourceVersion": first["metadata"]["resourceVersion"]}));

    let metadata = ["Accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"];
    let metadata = request(&node, "GET", MAPS, &metadata, b"").body;
    assert_eq!((&metadata["kind"], metadata["items"][0].get("data")), (&json!("PartialObjectMetadataList"), None));

    let initial = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut stream = UnixStream::connect(node.path("run/api.sock")).unwrap();
    write!(stream, "GET {MAPS}?{initial} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut events = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok()).filter(Value::is_object);
    for name in ["a", "b"] {
        let event = events.next().unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!(name)));
    }
    let end = events.next().unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    drop(events);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
