//! Containers and sandboxes as entries of a list, written from where they lie: of a list of a thousand, half the time went
//! into copying names and into giving the copies back.

use std::collections::BTreeMap;

use prost::encoding::{WireType, btree_map, encode_key, encode_varint, int32, int64, string, uint32};
use wharf_specs::cri::list::ENTRIES;

use super::{container, sandbox};
use crate::pod::status::{ContainerStatus, SandboxStatus};

/// Entries one after the other, each with its key and length.
#[derive(Default)]
pub(super) struct EncodedList {
    bytes: Vec<u8>,
    /// One entry, and a message in it: a length comes before what it is the length of.
    entry: Vec<u8>,
    inner: Vec<u8>,
}

impl EncodedList {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// As [`container::listed`] has it.
    pub(super) fn add_container(&mut self, status: &ContainerStatus) {
        let (config, entry, inner) = (&status.config, &mut self.entry, &mut self.inner);
        entry.clear();
        put_string(1, &status.id, entry);
        put_string(2, &status.sandbox, entry);
        inner.clear();
        put_string(1, &config.name, inner);
        put_number(2, config.attempt, inner);
        put_message(3, inner, entry);
        inner.clear();
        put_string(1, &config.image, inner);
        put_string(18, &config.user_image, inner);
        put_message(4, inner, entry);
        put_string(5, &status.image_id, entry);
        put_state(6, container::state(status.state).into(), entry);
        put_time(7, status.created_at, entry);
        put_map(8, &config.labels, entry);
        put_map(9, &config.annotations, entry);
        put_string(10, &status.image_id, entry);
        put_message(ENTRIES, entry, &mut self.bytes);
    }

    /// As [`sandbox::listed`] has it.
    pub(super) fn add_sandbox(&mut self, status: &SandboxStatus) {
        let (config, entry, inner) = (&status.config, &mut self.entry, &mut self.inner);
        entry.clear();
        put_string(1, &status.id, entry);
        inner.clear();
        put_string(1, &config.name.name, inner);
        put_string(2, &config.name.uid, inner);
        put_string(3, &config.name.namespace, inner);
        put_number(4, config.name.attempt, inner);
        put_message(2, inner, entry);
        put_state(3, sandbox::state(status.state).into(), entry);
        put_time(4, status.created_at, entry);
        put_map(5, &config.labels, entry);
        put_map(6, &config.annotations, entry);
        put_string(7, &config.runtime_handler, entry);
        put_message(ENTRIES, entry, &mut self.bytes);
    }
}

fn put_message(tag: u32, message: &[u8], bytes: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, bytes);
    encode_varint(message.len() as u64, bytes);
    bytes.extend_from_slice(message);
}

// What has its default is left out, as the format has it.

fn put_string(tag: u32, text: &String, bytes: &mut Vec<u8>) {
    if !text.is_empty() {
        string::encode(tag, text, bytes);
    }
}

fn put_number(tag: u32, number: u32, bytes: &mut Vec<u8>) {
    if number != 0 {
        uint32::encode(tag, &number, bytes);
    }
}

fn put_state(tag: u32, state: i32, bytes: &mut Vec<u8>) {
    if state != 0 {
        int32::encode(tag, &state, bytes);
    }
}

fn put_time(tag: u32, nanoseconds: i64, bytes: &mut Vec<u8>) {
    if nanoseconds != 0 {
        int64::encode(tag, &nanoseconds, bytes);
    }
}

fn put_map(tag: u32, map: &BTreeMap<String, String>, bytes: &mut Vec<u8>) {
    btree_map::encode(string::encode, string::encoded_len, string::encode, string::encoded_len, tag, map, bytes);
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use wharf_specs::cri;

    use super::*;
    use crate::pod::status::{ContainerState, SandboxState};

    fn sandbox_status(name: &str, attempt: u32, state: SandboxState, labels: &[(&str, &str)]) -> SandboxStatus {
        let labels: std::collections::HashMap<_, _> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let wire = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                namespace: "b".into(),
                uid: "c".into(),
                attempt,
            }),
            annotations: labels.clone(),
            labels,
            ..Default::default()
        };
        SandboxStatus {
            id: format!("{name}-id"),
            config: sandbox::config(Some(wire), String::new()).unwrap(),
            state,
            created_at: i64::from(attempt) * 1_000_000_000_000_000_000,
            addresses: Vec::new(),
            shim_pid: 1,
        }
    }

    fn container_status(name: &str, attempt: u32, state: ContainerState, labels: &[(&str, &str)]) -> ContainerStatus {
        let pod = sandbox_status("pod", 0, SandboxState::Ready, labels).config;
        let wire = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt }),
            image: Some(cri::ImageSpec {
                image: "sha256:1".into(),
                user_specified_image: "x".repeat(200),
                ..Default::default()
            }),
            labels: pod.labels.clone().into_iter().collect(),
            annotations: pod.labels.clone().into_iter().collect(),
            ..Default::default()
        };
        ContainerStatus {
            id: format!("{name}-id"),
            sandbox: "pod-id".into(),
            config: container::config(Some(wire), &pod).unwrap(),
            image_id: if attempt == 0 { String::new() } else { "sha256:2".into() },
            state,
            pid: 0,
            created_at: i64::from(attempt),
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            oom_origin: None,
            log_path: None,
            stop_signal: 15,
            user: Default::default(),
        }
    }

    const LABELS: &[(&str, &str)] = &[("a", "1"), ("empty", ""), ("", "no key")];

    #[test]
    fn containers_are_read_back_as_they_are_listed() {
        let all = [
            container_status("a", 0, ContainerState::Created, &[]),
            container_status("b", 3, ContainerState::Running, LABELS),
            container_status("c", u32::MAX, ContainerState::Unknown, &[]),
        ];
        let mut list = EncodedList::default();
        all.iter().for_each(|status| list.add_container(status));
        let answer = cri::ListContainersResponse { encoded: list.into_bytes(), ..Default::default() };
        let sent = answer.encode_to_vec();
        assert_eq!(sent.len(), answer.encoded_len());
        let listed: Vec<_> = all.iter().map(container::listed).collect();
        assert_eq!(cri::ListContainersResponse::decode(&sent[..]).unwrap().containers, listed);
        // Byte for byte, where no map has an order of its own.
        let mut alone = EncodedList::default();
        alone.add_container(&all[0]);
        let derived = cri::StreamContainersResponse { containers: vec![container::listed(&all[0])] };
        assert_eq!(alone.into_bytes(), derived.encode_to_vec());
    }

    #[test]
    fn sandboxes_are_read_back_as_they_are_listed() {
        let all =
            [sandbox_status("a", 0, SandboxState::Ready, &[]), sandbox_status("b", 7, SandboxState::NotReady, LABELS)];
        let mut list = EncodedList::default();
        all.iter().for_each(|status| list.add_sandbox(status));
        let answer = cri::ListPodSandboxResponse { encoded: list.into_bytes(), ..Default::default() };
        let listed: Vec<_> = all.iter().map(sandbox::listed).collect();
        let sent = answer.encode_to_vec();
        assert_eq!(cri::ListPodSandboxResponse::decode(&sent[..]).unwrap().items, listed);
    }
}
