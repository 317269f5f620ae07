//! Says which folders are baked into the binary, so that a new file in them is noticed.
//! Never: build anything.

fn main() {
    for folder in ["../../app/dist", "../../site"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
