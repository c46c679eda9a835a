//! `lbd backend` on its own: `backend --interface DEV --vip ADDR`, with the decapsulator's object file in `EDGELB_DECAP`.

use anyhow::Context as _;
use clap::Parser;
use lb_userspace::backend::BackendArgs;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    backend: BackendArgs,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let path = std::env::var("EDGELB_DECAP").context("EDGELB_DECAP does not name the decapsulator's object file")?;
    let object = std::fs::read(&path).with_context(|| path.clone())?;
    Ok(cli.backend.execute(&object).await?)
}
