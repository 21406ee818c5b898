//! The program on servers in containers.

mod program;
mod servers;

#[tokio::test]
async fn an_order_that_was_taken_is_found() -> Result<(), Box<dyn std::error::Error>> {
    let (environment, _servers) = servers::start().await?;
    let program = program::Program::start(environment)?;
    program.order("tea")?;
    program.stop()
}
