//! Compiles `proto/` for the fake GPUs of the cluster, without the `protoc` program.

#[cfg(feature = "e2e")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["deviceplugin.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

#[cfg(not(feature = "e2e"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
