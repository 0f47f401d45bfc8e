use super::*;

const PLAIN: &str = include_str!("../../../tests/data/gotgt-config.json");
const FAST: &str = include_str!("../../../tests/data/gotgt-performance.json");

fn mistakes(text: &str) -> Vec<String> {
    let found = Config::parse(text, None).expect_err("the file has a mistake");
    found.iter().map(ToString::to_string).collect()
}

/// A file with one storage, one portal and one target, where each part can be replaced.
fn file(storage: &str, portal: &str, target: &str) -> String {
    format!(
        r#"{{"storages": [{{"deviceID": 7, "path": "ram:x", "size": "1M"}}{storage}],
            "iscsiportals": [{{"id": 0, "portal": "127.0.0.1:3260"}}{portal}],
            "iscsitargets": {{"iqn.2024-01.com.x:a": {{{target}}}}}}}"#
    )
}

const GOOD_TARGET: &str = r#""tpgts": {"1": [0]}, "luns": {"0": 7}"#;

#[test]
fn a_gotgt_file_loads_unchanged() {
    let config = Config::parse(PLAIN, None).expect("gotgt's example");
    let storage = &config.storages[0];
    assert_eq!((storage.device_id, storage.kind), (1000, BackendKind::File));
    assert_eq!(storage.path, PathBuf::from("/var/tmp/disk.img"));
    assert_eq!(config.portals[0].address.to_string(), "127.0.0.1:3260");
    assert_eq!(
        config.targets[0].name,
        "iqn.2016-09.com.gotgt.gostor:02:example-tgt-0"
    );
    assert_eq!(config.targets[0].portal_groups, vec![(1, vec![0])]);
    assert_eq!(config.targets[0].luns, vec![(0, 1000)]);
}

#[test]
fn a_gotgt_file_with_performance_settings_loads_unchanged() {
    let config = Config::parse(FAST, None).expect("gotgt's example");
    let storage = &config.storages[0];
    assert_eq!(
        (storage.kind, storage.queue_depth, storage.numa_node),
        (BackendKind::IoUring, Some(4096), Some(0))
    );
    assert_eq!(config.memory.bytes_per_node, Some(1024 * 262_144));
    assert_eq!(config.targets[0].luns, vec![(1, 1000)]);
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let found = mistakes(
        r#"{"storages": [
              {"deviceID": 7, "path": "/a", "blockshift": 9},
              {"deviceID": 7, "path": "/b"},
              {"path": "rbd:pool/image"},
              {"deviceID": 8},
              {"deviceID": 9, "path": "/c", "blockShift": 10, "online": "yes"}],
            "iscsiportals": [{"id": 0, "portal": "nowhere"}, {"id": 0, "portal": "1.2.3.4"}],
            "iscsitargets": {
              "iqn.2024-01.com.x:a": {"tpgts": {"1": [0, 3]}, "luns": {"0": 7, "1": 70, "x": 7}},
              "bad name": {"luns": {}}},
            "extra": 1}"#,
    );
    let want = [
        r#"extra: unknown field; known here: "#,
        r#"storages[0].blockshift: unknown field; did you mean "blockShift"?"#,
        "storages[1].deviceID: 7 is the number of another storage too",
        r#"storages[2]: "deviceID" is missing"#,
        r#"storages[2].path: unknown backend "rbd": it is one of iouring, file, ram, null"#,
        r#"storages[3]: "path" is missing"#,
        "storages[4].blockShift: is 10: only 9 (512 bytes) and 12 (4096 bytes) are served",
        "storages[4].online: expected true or false, found a string",
        "iscsiportals[0].portal: \"nowhere\" is not ADDR:PORT",
        "iscsiportals[1].id: 0 is the id of another portal too",
        r#"iscsitargets."iqn.2024-01.com.x:a".tpgts."1"[1]: no portal has id 3"#,
        r#"iscsitargets."iqn.2024-01.com.x:a".luns."1": no storage has deviceID 70"#,
        r#"iscsitargets."iqn.2024-01.com.x:a".luns."x": a LUN is a number from 0 to 16383"#,
        r#"iscsitargets."iqn.2024-01.com.x:a".luns."x": storage 7 is a LUN of this target already"#,
        r#"iscsitargets."bad name": "bad name" is not an iSCSI name"#,
        r#"iscsitargets."bad name": "tpgts" is missing: nobody could reach this target"#,
    ];
    assert_eq!(found.len(), want.len(), "{found:#?}");
    for (got, want) in found.iter().zip(want) {
        assert!(got.starts_with(want), "got  {got}\nwant {want}");
    }
}

#[test]
fn a_target_without_a_portal_is_a_mistake() {
    for groups in ["{}", r#"{"1": []}"#, r#"{"1": [], "2": []}"#] {
        let target = format!(r#""tpgts": {groups}, "luns": {{"0": 7}}"#);
        assert_eq!(
            mistakes(&file("", "", &target)),
            [
                r#"iscsitargets."iqn.2024-01.com.x:a".tpgts: names no portal: nobody could reach this target"#
            ]
        );
    }
    let one_is_enough = r#""tpgts": {"1": [], "2": [0]}, "luns": {"0": 7}"#;
    assert!(Config::parse(&file("", "", one_is_enough), None).is_ok());
}

#[test]
fn a_key_given_twice_is_a_mistake() {
    let twice = file("", "", r#""tpgts": {"1": [0]}, "luns": {"0": 7, "0": 7}"#);
    assert_eq!(
        mistakes(&twice),
        [r#"iscsitargets."iqn.2024-01.com.x:a".luns."0": is given twice"#]
    );
    let number_twice = file(
        r#", {"deviceID": 8, "path": "/b"}"#,
        "",
        r#""tpgts": {"1": [0]}, "luns": {"1": 7, "01": 8}"#,
    );
    assert_eq!(
        mistakes(&number_twice),
        [r#"iscsitargets."iqn.2024-01.com.x:a".luns."01": LUN 1 is given twice"#]
    );
    assert_eq!(
        mistakes(r#"{"storages": [], "storages": []}"#),
        [r#""storages": is given twice"#]
    );
    let names = r#"{"iscsiportals": [{"id": 0, "portal": "127.0.0.1"}], "iscsitargets": {
        "iqn.2024-01.com.x:a": {"tpgts": {"1": [0]}}, "iqn.2024-01.com.X:a": {"tpgts": {"1": [0]}}}}"#;
    assert_eq!(
        mistakes(names),
        [
            r#"iscsitargets."iqn.2024-01.com.X:a": is the same name as "iqn.2024-01.com.x:a": case does not count"#
        ]
    );
}

#[test]
fn a_syntax_error_has_line_and_column() {
    let found = mistakes("{\n  \"storages\": [,]\n}");
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("line 2, column 16: not JSON: "),
        "{found:?}"
    );
    assert_eq!(
        mistakes("[]"),
        ["the file: expected an object, found an array"]
    );
}

#[test]
fn a_portal_without_a_port_gets_the_one_of_the_command_line() {
    let text = file("", r#", {"id": 1, "portal": "[::1]"}"#, GOOD_TARGET);
    let config = Config::parse(&text, Some(4000)).expect("good");
    assert_eq!(config.portals[1].address.to_string(), "[::1]:4000");
    assert_eq!(config.portals[0].address.port(), 3260);
}

#[test]
fn portals_that_collide_are_mistakes() {
    let text = file(
        "",
        r#", {"id": 1, "portal": "127.0.0.1"}"#,
        r#""tpgts": {"1": [0], "2": [0], "x": []}"#,
    );
    assert_eq!(
        mistakes(&text),
        [
            "iscsiportals[1].portal: 127.0.0.1:3260 is the address of another portal too",
            r#"iscsitargets."iqn.2024-01.com.x:a".tpgts."2"[0]: portal 0 is in this target already"#,
            r#"iscsitargets."iqn.2024-01.com.x:a".tpgts."x": a portal group tag is a number from 0 to 65535"#,
        ]
    );
}

#[test]
fn what_has_no_file_needs_a_size_in_whole_blocks() {
    let text = file(
        r#", {"deviceID": 8, "path": "ram:n"}, {"deviceID": 9, "path": "/x", "size": 1000}"#,
        "",
        GOOD_TARGET,
    );
    assert_eq!(
        mistakes(&text),
        [
            r#"storages[1]: a storage of kind "ram" needs "size""#,
            "storages[2].size: 1000 bytes is not a whole number of blocks of 512 bytes",
        ]
    );
}

#[test]
fn reactors_go_to_the_numa_node_that_all_storages_want() {
    let storage = |node| Storage {
        numa_node: node,
        ..Storage::new(0, BackendKind::Null, PathBuf::from("n"))
    };
    let mut config = Config::default();
    let mut notes = Vec::new();
    assert_eq!(config.numa_node(&mut notes), None);
    config.storages = vec![storage(Some(1)), storage(None), storage(Some(1))];
    assert_eq!((config.numa_node(&mut notes), notes.len()), (Some(1), 0));
    config.storages.push(storage(Some(0)));
    assert_eq!((config.numa_node(&mut notes), notes.len()), (None, 1));
}

/// One fact, written twice, kept together: the README's table names every member there is.
#[test]
fn the_readme_names_every_member() {
    let readme = include_str!("../../../README.md");
    let rows: Vec<&str> = readme
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    for (place, members) in check::MEMBERS {
        for member in *members {
            let named = rows.iter().any(|row| {
                let names = row.split('|').nth(1).unwrap_or_default();
                names.contains(&format!("`{place}")) && names.contains(&format!("{member}`"))
            });
            assert!(named, "the README does not name {place}{member}");
        }
    }
}

#[test]
fn our_own_members_are_read() {
    let text = r#"{"storages": [{"deviceID": 1, "path": "/d", "backendType": "file", "size": "1G", "serial": "S1",
        "vendor": "ACME", "product": "Disk", "readOnly": true, "writeCache": false, "directIO": true, "online": false, "blockShift": 12}],
        "reactors": {"cores": "0,2-3", "poll": "busy", "spinMicros": 80, "sqpoll": "force"}}"#;
    let config = Config::parse(text, None).expect("good");
    let s = &config.storages[0];
    assert_eq!(
        (s.size, s.read_only, s.write_cache, s.online, s.direct),
        (Some(1 << 30), true, false, false, Some(true))
    );
    assert_eq!(s.block_size, BlockSize::B4096);
    assert_eq!(s.serial.as_deref(), Some("S1"));
    assert_eq!(config.reactors.cores, Some(vec![0, 2, 3]));
    assert_eq!(config.reactors.poll, PollPolicy::Busy);
    assert_eq!(config.reactors.spin, Some(Duration::from_micros(80)));
    assert_eq!(config.reactors.sqpoll, Sqpoll::Force);
    for (value, meant) in [
        ("true", Sqpoll::Yes),
        ("false", Sqpoll::No),
        (r#""yes""#, Sqpoll::Yes),
    ] {
        let text = format!(r#"{{"reactors": {{"sqpoll": {value}}}}}"#);
        let config = Config::parse(&text, None).expect("good");
        assert_eq!(config.reactors.sqpoll, meant);
    }
    assert!(mistakes(r#"{"reactors": {"sqpoll": "often"}}"#)[0].starts_with("reactors.sqpoll: "));
    assert!(mistakes(r#"{"reactors": {"poll": "often"}}"#)[0].starts_with("reactors.poll: "));
    assert_eq!(
        mistakes(r#"{"reactors": {"cores": [1, 1]}}"#),
        ["reactors.cores[1]: core 1 is given twice"]
    );
}

#[test]
fn a_missing_file_without_a_size_is_a_mistake() {
    let text = r#"{"storages": [{"deviceID": 1, "path": "/nonesuch/a"}, {"deviceID": 2, "path": "/nonesuch/b", "size": "1M"}]}"#;
    let found = Config::parse(text, None).expect("good").missing_files();
    assert_eq!(found.len(), 1);
    let want = r#"storages[0].path: /nonesuch/a does not exist (give "size" to have it created)"#;
    assert_eq!(found[0].to_string(), want);
}

#[test]
fn our_own_file_is_looked_for_before_gotgts() {
    let variable = |name: &str| match name {
        "HOME" => Some(PathBuf::from("/home/u")),
        "GOSTOR_CONFIG" => Some(PathBuf::from("/gostor")),
        _ => None,
    };
    let want = [
        "/home/u/.ringtgt/config.json",
        "/etc/ringtgt/config.json",
        "/gostor/config.json",
        "/home/u/.gotgt/config.json",
    ];
    assert_eq!(search_path(variable), want.map(PathBuf::from));
    assert_eq!(
        search_path(|_| Some(PathBuf::from("/c")))[0],
        PathBuf::from("/c")
    );
}

proptest::proptest! {
    /// Whatever is written, the answer is a configuration or a list of mistakes.
    #[test]
    fn any_json_is_a_configuration_or_mistakes(
        key in "[a-zA-Z\"\\[\\]{}:,0-9.-]{0,12}",
        value in proptest::sample::select(vec!["null", "[]", "{}", "1", "-1", "1e99", "\"x\"", "[{}]", "[[1]]", "{\"1\":[0]}"]),
        field in proptest::sample::select(vec!["storages", "iscsiportals", "iscsitargets", "performance", "reactors"]),
    ) {
        let _ = Config::parse(&format!(r#"{{"{field}": {value}, "{key}": {value}}}"#), None);
        let _ = Config::parse(&format!(r#"{{"iscsitargets": {{"iqn.2024-01.com.x": {{"tpgts": {value}, "luns": {value}}}}}}}"#), None);
        let _ = Config::parse(&key, None);
    }
}
