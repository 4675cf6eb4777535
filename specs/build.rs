//! Generates the CRI types from `proto/cri.proto` with protox, so that no protoc is needed.

fn main() {
    println!("cargo::rerun-if-changed=proto/cri.proto");
    #[cfg(feature = "cri")]
    generate_cri();
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
        .compile_fds(descriptors)
        .expect("generate the CRI types");
}
