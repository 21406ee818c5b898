//! What the program needs: its environment, and servers that last as long as they are kept.

use std::error::Error;

use testcontainers::core::{IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

type Environment = Vec<(&'static str, String)>;

pub async fn start() -> Result<(Environment, ContainerAsync<GenericImage>), Box<dyn Error>> {
    let image = std::env::var("POSTGRES_IMAGE").unwrap_or_else(|_| "postgres:18".to_owned());
    let (name, tag) = image.rsplit_once(':').ok_or("POSTGRES_IMAGE has no tag")?;
    let postgres = GenericImage::new(name, tag)
        .with_exposed_port(5432.tcp())
        .with_wait_for(WaitFor::message_on_stderr("ready to accept connections"))
        .with_env_var("POSTGRES_PASSWORD", "secret")
        .start()
        .await?;
    let (host, port) = (postgres.get_host().await?, postgres.get_host_port_ipv4(5432).await?);
    let url = format!("postgres://postgres:secret@{host}:{port}/postgres");
    let admin = sqlx::PgPool::connect(&url).await?;
    sqlx::raw_sql(include_str!("../../schema.sql")).execute(&admin).await?;
    Ok((vec![("DATABASE_URL", url)], postgres))
}
