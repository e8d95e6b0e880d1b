//! `sqlx::migrate!` embeds a folder, and the compiler only watches files that it knows: without
//! this, a new migration would not be seen.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
