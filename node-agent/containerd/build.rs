//! Compiles `proto/` to clients, without the `protoc` program that users do not have.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 7] = [
        "containerd.leases.proto",
        "containerd.snapshots.proto",
        "containerd.content.proto",
        "containerd.images.proto",
        "containerd.version.proto",
        "containerd.introspection.proto",
        "cri.proto",
    ];
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(descriptors)?;
    Ok(())
}
