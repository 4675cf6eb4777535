//! The messages of CRIU's RPC protocol (version 2 protobuf) that a container runtime needs: what `criu swrk` reads
//! and writes on a `SOCK_SEQPACKET` socket, one message per packet. Names and numbers are the protocol's.
//!
//! ```text
//! runtime                     criu
//!   Request  ───────────────▶
//!            ◀───────────────  Response of type Notify: a script is due
//!   Request of type Notify ─▶  with `notify_success`
//!            …
//!            ◀───────────────  Response of the request's own type: done, or failed
//! ```

pub use prost::Message;

/// What is asked for, and what an answer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum RequestType {
    Empty = 0,
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

/// What criu does with control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CgroupMode {
    /// Nothing: processes stay in the group of the criu that restores them.
    Ignore = 0,
    /// Groups that are there are left as they are, others are made with their properties.
    Soft = 3,
    /// All properties are restored.
    Full = 4,
    /// Groups that are there are an error.
    Strict = 5,
    /// As criu likes it, which is [`CgroupMode::Soft`].
    Default = 6,
}

/// How a network namespace is shut while its connections are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum NetworkLock {
    /// By the programs `iptables-restore` and `ip6tables-restore`.
    Iptables = 1,
    /// By criu itself.
    Nftables = 2,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    #[prost(enumeration = "RequestType", required, tag = "1")]
    pub kind: i32,
    #[prost(message, optional, tag = "2")]
    pub options: Option<Options>,
    #[prost(bool, optional, tag = "3")]
    pub notify_success: Option<bool>,
    #[prost(message, optional, tag = "5")]
    pub features: Option<Features>,
}

/// What a dump or a restore is to do. Left out is off, or criu's default.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Options {
    /// A descriptor of the asking process.
    #[prost(int32, required, tag = "1")]
    pub images_dir_fd: i32,
    /// Root of the process tree to dump.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    #[prost(bool, optional, tag = "3")]
    pub leave_running: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub ext_unix_sk: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub tcp_established: Option<bool>,
    #[prost(bool, optional, tag = "6")]
    pub evasive_devices: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub shell_job: Option<bool>,
    #[prost(bool, optional, tag = "8")]
    pub file_locks: Option<bool>,
    #[prost(int32, optional, tag = "9")]
    pub log_level: Option<i32>,
    /// A name in the work directory.
    #[prost(string, optional, tag = "10")]
    pub log_file: Option<String>,
    #[prost(message, optional, tag = "11")]
    pub page_server: Option<PageServer>,
    #[prost(bool, optional, tag = "12")]
    pub notify_scripts: Option<bool>,
    #[prost(string, optional, tag = "13")]
    pub root: Option<String>,
    /// Relative to the images directory.
    #[prost(string, optional, tag = "14")]
    pub parent_img: Option<String>,
    #[prost(bool, optional, tag = "15")]
    pub track_mem: Option<bool>,
    #[prost(bool, optional, tag = "16")]
    pub auto_dedup: Option<bool>,
    /// A descriptor of the asking process; without it, the images directory.
    #[prost(int32, optional, tag = "17")]
    pub work_dir_fd: Option<i32>,
    #[prost(bool, optional, tag = "18")]
    pub link_remap: Option<bool>,
    /// The form of older versions; `manage_cgroups_mode` overrules it.
    #[prost(bool, optional, tag = "24")]
    pub manage_cgroups: Option<bool>,
    #[prost(message, repeated, tag = "25")]
    pub cg_root: Vec<CgroupRoot>,
    /// The restored root process becomes a child of criu's parent.
    #[prost(bool, optional, tag = "26")]
    pub rst_sibling: Option<bool>,
    #[prost(message, repeated, tag = "27")]
    pub inherit_fd: Vec<InheritFd>,
    #[prost(enumeration = "CgroupMode", optional, tag = "34")]
    pub manage_cgroups_mode: Option<i32>,
    /// Resources that are not part of the image: `mnt[PLACE]:KEY` and `net[INODE]:KEY` in a dump, `mnt[KEY]:SOURCE`
    /// in a restore.
    #[prost(string, repeated, tag = "37")]
    pub external: Vec<String>,
    /// `CLONE_NEW*` of namespaces whose content is not part of the image.
    #[prost(uint32, optional, tag = "38")]
    pub empty_ns: Option<u32>,
    #[prost(message, repeated, tag = "39")]
    pub join_ns: Vec<JoinNamespace>,
    /// Directory of a freezer's or a unified group that holds all processes.
    #[prost(string, optional, tag = "44")]
    pub freeze_cgroup: Option<String>,
    #[prost(bool, optional, tag = "46")]
    pub tcp_skip_in_flight: Option<bool>,
    #[prost(bool, optional, tag = "48")]
    pub lazy_pages: Option<bool>,
    /// A descriptor of the asking process.
    #[prost(int32, optional, tag = "49")]
    pub status_fd: Option<i32>,
    #[prost(bool, optional, tag = "50")]
    pub orphan_pts_master: Option<bool>,
    #[prost(string, optional, tag = "51")]
    pub config_file: Option<String>,
    /// `TYPE:NAME`.
    #[prost(string, optional, tag = "53")]
    pub lsm_profile: Option<String>,
    #[prost(string, optional, tag = "63")]
    pub lsm_mount_context: Option<String>,
    /// A restore finds it in the images.
    #[prost(enumeration = "NetworkLock", optional, tag = "64")]
    pub network_lock: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PageServer {
    #[prost(string, optional, tag = "1")]
    pub address: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub port: Option<i32>,
}

/// Where the processes of one hierarchy are put.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CgroupRoot {
    /// One controller of a v1 hierarchy, empty for the unified one.
    #[prost(string, optional, tag = "1")]
    pub controller: Option<String>,
    #[prost(string, required, tag = "2")]
    pub path: String,
}

/// A descriptor of criu's that takes the place of one in the image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InheritFd {
    #[prost(string, required, tag = "1")]
    pub key: String,
    #[prost(int32, required, tag = "2")]
    pub fd: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct JoinNamespace {
    #[prost(string, required, tag = "1")]
    pub namespace: String,
    #[prost(string, required, tag = "2")]
    pub file: String,
}

/// In a request: what is asked about. In an answer: what there is.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Features {
    #[prost(bool, optional, tag = "1")]
    pub mem_track: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub lazy_pages: Option<bool>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    #[prost(enumeration = "RequestType", required, tag = "1")]
    pub kind: i32,
    #[prost(bool, required, tag = "2")]
    pub success: bool,
    #[prost(message, optional, tag = "4")]
    pub restore: Option<Restored>,
    #[prost(message, optional, tag = "5")]
    pub notify: Option<Notify>,
    #[prost(int32, optional, tag = "7")]
    pub error_number: Option<i32>,
    #[prost(message, optional, tag = "8")]
    pub features: Option<Features>,
    #[prost(string, optional, tag = "9")]
    pub error_message: Option<String>,
    #[prost(message, optional, tag = "10")]
    pub version: Option<Version>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Restored {
    #[prost(int32, required, tag = "1")]
    pub pid: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Notify {
    /// Name of the moment, such as `setup-namespaces`.
    #[prost(string, optional, tag = "1")]
    pub script: Option<String>,
    /// The root process, where there is one.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Version {
    #[prost(int32, required, tag = "1")]
    pub major: i32,
    #[prost(int32, required, tag = "2")]
    pub minor: i32,
    #[prost(string, optional, tag = "3")]
    pub git_id: Option<String>,
    #[prost(int32, optional, tag = "4")]
    pub sublevel: Option<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_has_the_protocols_numbers() {
        let request = Request { kind: RequestType::Version.into(), ..Request::default() };
        assert_eq!(request.encode_to_vec(), [0x08, 10]);
        let options = Options { images_dir_fd: 5, config_file: Some("x".into()), ..Options::default() };
        // Field 51, a string: (51 << 3 | 2) as a varint is 0x9a 0x03.
        assert_eq!(options.encode_to_vec(), [0x08, 5, 0x9a, 0x03, 1, b'x']);
        let root = CgroupRoot { controller: Some(String::new()), path: "/a".into() };
        assert_eq!(root.encode_to_vec(), [0x0a, 0, 0x12, 2, b'/', b'a'], "the unified hierarchy is a name, not none");
    }

    #[test]
    fn answers_of_newer_versions_are_read_past_what_is_unknown() {
        // Notify with script and pid, and an unknown field 11.
        let bytes = [0x08, 6, 0x10, 1, 0x2a, 5, 0x0a, 1, b'p', 0x10, 7, 0x58, 3];
        let response = Response::decode(bytes.as_slice()).expect("decode");
        assert_eq!(response.kind, i32::from(RequestType::Notify));
        assert_eq!(response.notify, Some(Notify { script: Some("p".into()), pid: Some(7) }));
    }
}
