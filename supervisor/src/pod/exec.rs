use super::error::{PodError, Result};
use super::node::Inner;
use super::session::{AttachSession, ExecOutput, ExecSession};
use super::spec::ExecConfig;
use std::time::Duration;
pub(crate) async fn start(_: &Inner, id: &str, _: ExecConfig) -> Result<ExecSession> { Err(PodError::container_not_found(id)) }
pub(crate) async fn run_to_end(_: &Inner, id: &str, _: Vec<String>, _: Option<Duration>) -> Result<ExecOutput> { Err(PodError::container_not_found(id)) }
pub(crate) async fn attach(_: &Inner, id: &str, _: bool, _: bool, _: bool) -> Result<AttachSession> { Err(PodError::container_not_found(id)) }
pub(crate) async fn resize(_: &Inner, id: &str, _: u16, _: u16) -> Result<()> { Err(PodError::container_not_found(id)) }
pub(crate) async fn reopen_log(_: &Inner, id: &str) -> Result<()> { Err(PodError::container_not_found(id)) }
