//! `/init` of an anchorhold image. All of it is in the library, so that tests reach the parts.
#![forbid(unsafe_code)]

fn main() {
    anchorhold_enclave::runtime::main()
}
