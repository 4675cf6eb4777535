//! What an object says of its own name and namespace, held against the path that it was sent to.

use serde_json::Value;

use super::kinds::text;
use super::status::ApiError;

/// Refuses a whole object whose name is not `name`, or that is of another namespace. It may leave its namespace out;
/// `namespace` is empty where the kind has none, and then says nothing of what the object says.
pub(super) fn check(object: &Value, namespace: &str, name: &str) -> Result<(), ApiError> {
    check_namespace(object, namespace)?;
    let message = match text(object, "/metadata/name") {
        written if written == name => return Ok(()),
        "" => format!("the name of the object ({name} based on URL) was undeterminable: name must be provided"),
        written => format!("the name of the object ({written}) does not match the name on the URL ({name})"),
    };
    Err(ApiError::BadRequest(message))
}

/// As [`check`], of what has its name from the path, or gets one.
pub(super) fn check_namespace(object: &Value, namespace: &str) -> Result<(), ApiError> {
    let written = text(object, "/metadata/namespace");
    if written.is_empty() || namespace.is_empty() || written == namespace {
        return Ok(());
    }
    let message = "the namespace of the provided object does not match the namespace sent on the request";
    Err(ApiError::BadRequest(message.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_the_one_that_its_path_names() {
        let answer = |metadata: Value, namespace: &str| {
            check(&json!({"metadata": metadata}), namespace, "n").err().map(|error| error.to_string())
        };
        assert_eq!(answer(json!({"name": "n", "namespace": "a"}), "a"), None);
        assert_eq!(answer(json!({"name": "n"}), "a"), None);
        assert_eq!(answer(json!({"name": "n", "namespace": "a"}), ""), None);
        for (metadata, part) in [
            (json!({"name": "n", "namespace": "b"}), "the namespace of the provided object does not match"),
            (json!({"name": "m", "namespace": "b"}), "the namespace of the provided object does not match"),
            (json!({"name": "m"}), "the name of the object (m) does not match the name on the URL (n)"),
            (json!({"namespace": "a"}), "the name of the object (n based on URL) was undeterminable"),
            (json!({"name": 7}), "undeterminable"),
            (json!("n"), "undeterminable"),
        ] {
            let message = answer(metadata.clone(), "a").unwrap_or_default();
            assert!(message.contains(part), "{metadata}: {message}");
        }
    }
}
