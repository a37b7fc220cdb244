//! `outbox-relay`: see `outbox-relay help`.

use std::process::ExitCode;

/// Rows are many small pieces of memory, got in one thread and given back in another: a third of the time, and a tenth of
/// the memory, went into the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("outbox-relay: starting threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(outbox_relay::cli::run(std::env::args_os()));
    // A look-up of a host's name, for one, cannot be interrupted, and nobody waits for it any more.
    runtime.shutdown_background();
    code
}
