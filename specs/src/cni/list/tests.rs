use super::*;

const LIST: &str = r#"{
  "cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0", "9.9.9"], "name": "pods", "disableCheck": "TRUE",
  "plugins": [
    {"type": "bridge", "isGateway": true, "mtu": 1400, "ipam": {"type": "host-local", "own": [1, 2.5]}},
    {"type": "portmap", "capabilities": {"portMappings": true, "other": false}}
  ]
}"#;

#[test]
fn a_list_is_read_and_what_only_plugins_know_is_kept() {
    let list = NetworkList::parse(LIST.as_bytes()).unwrap();
    assert_eq!((list.name.as_str(), list.newest(), list.versions.len()), ("pods", Version::V1_1_0, 3));
    assert_eq!((list.disable_check, list.disable_gc, list.source), (true, false, PluginSource::InlinedAndFolder));
    let programs: Vec<&str> = list.plugins.iter().map(|plugin| plugin.program.as_str()).collect();
    assert_eq!(programs, ["bridge", "portmap"]);
    assert_eq!(list.plugins[0].object["ipam"]["own"], serde_json::json!([1, 2.5]));
    assert!(list.plugins[1].capabilities.iter().eq(["portMappings"]));
}

#[test]
fn a_single_plugin_is_a_list_of_one_and_a_list_may_leave_all_to_its_folder() {
    let single = br#"{"cniVersion": "0.3.1", "name": "n", "type": "macvlan", "master": "eth0"}"#;
    let list = NetworkList::parse_single(single).unwrap();
    assert_eq!((list.plugins.len(), list.source), (1, PluginSource::Inlined));
    assert_eq!(list.plugins[0].object["master"], "eth0");
    let list = NetworkList::parse(br#"{"cniVersion": "1.1.0", "name": "n"}"#).unwrap();
    assert_eq!((list.plugins.len(), list.source), (0, PluginSource::InlinedAndFolder));
}

/// A list with `fields` besides those that a list has to have.
fn with(fields: &str) -> String {
    format!(r#"{{"cniVersion": "1.0.0", "name": "n", {fields}}}"#)
}

/// A list with one plugin of these `fields`.
fn plugin(fields: &str) -> String {
    with(&format!(r#""plugins": [{{"type": "a"}}, {{{fields}}}]"#))
}

#[test]
fn wrong_lists_are_refused_by_place_by_what_stood_there_and_by_what_is_allowed() {
    let table = [
        (String::new(), "line 1, column 0: EOF while parsing a value"),
        ("{".into(), "line 1, column 1: EOF while parsing an object"),
        ("{\n\"a\" 7}".into(), "line 2, column 5: expected `:`"),
        ("[]".into(), "the text: [] is no JSON object"),
        ("{}".into(), "name is missing: the network's name is needed"),
        (r#"{"name": 7}"#.into(), "name: 7 is no text"),
        (r#"{"name": ""}"#.into(), r#"name: "" is no name of a network; it begins with a letter or digit"#),
        (r#"{"name": "../up"}"#.into(), r#"name: "../up" is no name of a network"#),
        (r#"{"name": "a/b"}"#.into(), r#"name: "a/b" is no name of a network"#),
        (r#"{"name": "-a"}"#.into(), r#"name: "-a" is no name of a network"#),
        (format!(r#"{{"name": "{}"}}"#, "x".repeat(201)), "name: \"xxx"),
        (r#"{"name": "n"}"#.into(), "cniVersion is missing: one of 0.3.1, 0.4.0, 1.0.0, 1.1.0 is needed"),
        (r#"{"name": "n", "cniVersion": 1}"#.into(), "cniVersion: 1 is no text"),
        (r#"{"name": "n", "cniVersion": "1.1"}"#.into(), r#"cniVersion: "1.1" is no version such as "1.1.0""#),
        (r#"{"name": "n", "cniVersion": "0.2.0"}"#.into(), r#"cniVersion: "0.2.0" is none of 0.3.1, 0.4.0"#),
        (r#"{"name": "n", "cniVersion": "2.0.0"}"#.into(), r#"cniVersion: "2.0.0" is none of 0.3.1, 0.4.0"#),
        (with(r#""cniVersions": "1.0.0""#), r#"cniVersions: "1.0.0" is no list"#),
        (with(r#""cniVersions": ["1.0.0", 1]"#), "cniVersions[1]: 1 is no version"),
        (with(r#""disableCheck": 1"#), "disableCheck: 1 is neither true nor false"),
        (with(r#""disableGC": "no""#), r#"disableGC: "no" is neither true nor false"#),
        (with(r#""loadOnlyInlinedPlugins": []"#), "loadOnlyInlinedPlugins: [] is neither true nor false"),
        (with(r#""loadOnlyInlinedPlugins": true"#), "plugins is missing: with loadOnlyInlinedPlugins it has to hold"),
        (with(r#""plugins": {"type": "a"}"#), r#"plugins: {"type":"a"} is no list"#),
        (with(r#""plugins": []"#), "plugins: [] has no plugin in it"),
        (with(&format!(r#""plugins": [{}{{}}]"#, "{},".repeat(64))), r#"plugins: "65 plugins" are more than 64"#),
        (with(r#""plugins": ["bridge"]"#), r#"plugins[0]: "bridge" is no object"#),
        (plugin(""), "plugins[1].type is missing: the name of a plugin's program is needed"),
        (plugin(r#""type": true"#), "plugins[1].type: true is no text"),
        (plugin(r#""type": """#), r#"plugins[1].type: "" is no name of a program"#),
        (plugin(r#""type": "/bin/sh""#), r#"plugins[1].type: "/bin/sh" is no name of a program; letters, digits"#),
        (plugin(r#""type": "a\\b""#), r#"plugins[1].type: "a\\b" is no name of a program"#),
        (plugin(r#""type": "..""#), r#"plugins[1].type: ".." is no name of a program"#),
        (plugin(r#""type": "b", "capabilities": ["a"]"#), r#"plugins[1].capabilities: ["a"] is no object"#),
        (plugin(r#""type": "b", "capabilities": {"ips": 1}"#), "plugins[1].capabilities.ips: 1 is neither true"),
        (plugin(r#""type": "b", "ipam": "x""#), r#"plugins[1].ipam: "x" is no object"#),
        (plugin(r#""type": "b", "ipam": {"type": "a/b"}"#), r#"plugins[1].ipam.type: "a/b" is no name of a program"#),
        (plugin(r#""type": "b", "ipMasq": 2"#), "plugins[1].ipMasq: 2 is neither true nor false"),
        (plugin(r#""type": "b", "dns": {"search": "x"}"#), r#"plugins[1].dns.search: "x" is no list"#),
        (plugin(r#""type": "b", "dns": {"options": [1]}"#), "plugins[1].dns.options[0]: 1 is no text"),
        (plugin(r#""type": "b", "prevResult": {}"#), "plugins[1].prevResult: {} stands in a configuration, but only"),
        (plugin(r#""type": "b", "cni.dev/x": 1"#), "plugins[1].cni.dev/x: 1 stands in a configuration, but only"),
    ];
    for (text, expected) in table {
        let error = NetworkList::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(expected) && !error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn wrong_single_plugins_are_refused_in_the_same_way() {
    let table = [
        (r#"{"name": "n", "cniVersion": "1.0.0"}"#, "type is missing: the name of a plugin's program is needed"),
        (r#"{"name": "n", "plugins": []}"#, "plugins: [] makes this a list; its file has to be named *.conflist"),
        (r#"{"name": "n", "cniVersion": "1.0.0", "type": "a/b"}"#, r#"type: "a/b" is no name of a program"#),
        (r#"{"name": "n", "cniVersion": "1.0.0", "type": "b", "runtimeConfig": {}}"#, "runtimeConfig: {} stands in"),
    ];
    for (text, expected) in table {
        let error = NetworkList::parse_single(text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}
