//! Compiles the bus API's proto file, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILE: &str = "controllerbus/api/v1/api.proto";
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile([FILE], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("api.bin"), prost::Message::encode_to_vec(&files))?;
    tonic_prost_build::configure()
        .type_attribute(".", "#[derive(serde::Serialize, controllerbus::Schema)]")
        .compile_fds(files)?;
    Ok(())
}
