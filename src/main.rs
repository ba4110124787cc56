//! The binary `dispatcher`: hands over to [`image_job_dispatcher::cli`].

/// Serves librdkafka's C code too: a third of its CPU is malloc and free.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    let _failpoints = image_job_dispatcher::failpoint::from_environment();
    image_job_dispatcher::cli::run()
}
