//! A shop with its order pipeline inside: every way in which a program embeds Postrider.
//!
//! Each step checks what it shows, so the program is also a test of the published packages.
//! `POSTRIDER_TEST_POSTGRES` names the Postgres server on which it creates a database.

mod approve;
mod database;
mod shop;
mod two_hosts;

use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // The subscriber is the program's: the host installs none.
    tracing_subscriber::fmt().init();
    shop::run().await?;
    two_hosts::run().await?;
    database::run().await?;
    println!("the packaged library embeds as documented");
    Ok(())
}
