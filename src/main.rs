//! The binary `dispatcher`: hands over to [`image_job_dispatcher::cli`].

/// Serves librdkafka's C code too: a third of its CPU is malloc and free.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    image_job_dispatcher::cli::run()
}
