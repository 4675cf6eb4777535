//! Generates the CRI types from `proto/cri.proto` with protox, so that no protoc is needed, and the schemas of the
//! Kubernetes kinds from their types.

fn main() {
    println!("cargo::rerun-if-changed=proto/cri.proto");
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cri")]
    generate_cri();
    #[cfg(feature = "manifest")]
    generate_schemas();
}

#[cfg(feature = "cri")]
fn generate_cri() {
    let descriptors = match protox::compile(["proto/cri.proto"], ["proto"]) {
        Ok(descriptors) => descriptors,
        Err(error) => panic!("{error:?}"),
    };
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .build_transport(false)
        .extern_path(".runtime.v1.ListContainersResponse", "crate::cri::ListContainersResponse")
        .extern_path(".runtime.v1.ListPodSandboxResponse", "crate::cri::ListPodSandboxResponse")
        .compile_fds(descriptors)
        .expect("generate the CRI types");
}

/// Writes `schemas.json.z`: every definition that the kinds reach, by its name, as zlib-compressed JSON. Made here and
/// not in the programs: code that builds schemas is needed once.
#[cfg(feature = "manifest")]
fn generate_schemas() {
    use k8s_openapi::api::{
        apps, authentication, authorization, autoscaling, batch, coordination, core, discovery, events, policy, rbac,
        scheduling, storage,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta;
    use std::io::Write;

    let mut generator = schemars::generate::SchemaSettings::openapi3().into_generator();
    macro_rules! reach {
        ($($kind:ty),* $(,)?) => { $( generator.subschema_for::<$kind>(); )* };
    }
    reach!(
        apps::v1::ControllerRevision,
        apps::v1::DaemonSet,
        apps::v1::Deployment,
        apps::v1::ReplicaSet,
        authentication::v1::SelfSubjectReview,
        authentication::v1::TokenRequest,
        authentication::v1::TokenReview,
        authorization::v1::LocalSubjectAccessReview,
        authorization::v1::SelfSubjectAccessReview,
        authorization::v1::SelfSubjectRulesReview,
        authorization::v1::SubjectAccessReview,
        autoscaling::v1::Scale,
        batch::v1::Job,
        coordination::v1::Lease,
        core::v1::ConfigMap,
        core::v1::Endpoints,
        core::v1::Event,
        core::v1::Namespace,
        core::v1::Node,
        core::v1::PersistentVolume,
        core::v1::PersistentVolumeClaim,
        core::v1::Pod,
        core::v1::Secret,
        core::v1::Service,
        core::v1::ServiceAccount,
        discovery::v1::EndpointSlice,
        events::v1::Event,
        meta::v1::DeleteOptions,
        meta::v1::ListMeta,
        meta::v1::Status,
        policy::v1::Eviction,
        rbac::v1::ClusterRole,
        rbac::v1::ClusterRoleBinding,
        rbac::v1::Role,
        rbac::v1::RoleBinding,
        scheduling::v1::PriorityClass,
        storage::v1::StorageClass,
    );
    let definitions = serde_json::Value::Object(generator.take_definitions(false)).to_string();
    let folder = std::env::var_os("OUT_DIR").expect("OUT_DIR");
    let file = std::fs::File::create(std::path::Path::new(&folder).join("schemas.json.z")).expect("create the schemas");
    let mut encoder = flate2::write::ZlibEncoder::new(file, flate2::Compression::best());
    encoder.write_all(definitions.as_bytes()).expect("write the schemas");
    encoder.finish().expect("write the schemas");
}
