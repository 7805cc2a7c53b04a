//! Turns `proto/*.proto` into Rust without the `protoc` program.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 4] = ["agent.proto", "ext_authz.proto", "node.proto", "workload.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
