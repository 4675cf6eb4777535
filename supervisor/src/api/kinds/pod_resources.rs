//! Requests and limits of a container, as they may be written.

use serde_json::Value;

use crate::api::quantity;
use crate::api::status::Cause;

/// Without a request the limit is the request. Clients add the requests of a node's pods up, and trust in that.
pub(super) fn request_defaults(container: &mut Value) {
    let limits = container.pointer("/resources/limits").and_then(Value::as_object).cloned().unwrap_or_default();
    for (resource, limit) in limits.into_iter().filter(|(_, limit)| !limit.is_null()) {
        let request = &mut container["resources"]["requests"];
        if request.is_null() || request.is_object() && request[&resource].is_null() {
            request[resource] = limit;
        }
    }
}

/// Amounts are quantities, and nobody asks for more than it may have.
pub(super) fn resource_causes(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    for resource in ["cpu", "ephemeral-storage", "memory"] {
        let [limit, request] = ["limits", "requests"].map(|kind| {
            let value = container.pointer(&format!("/resources/{kind}/{resource}")).filter(|value| !value.is_null())?;
            let quantity = quantity::parse(value.as_str().unwrap_or_default()).filter(|quantity| *quantity >= 0.0);
            if quantity.is_none() {
                let message = "must be a quantity such as 500m, 2, 64Mi";
                causes.push(Cause::invalid(format!("{path}.resources.{kind}.{resource}"), value, message));
            }
            Some((value, quantity?))
        });
        if let (Some((limit, most)), Some((request, wanted))) = (limit, request)
            && wanted > most
        {
            let limit = limit.as_str().unwrap_or_default();
            let message = format!("must be less than or equal to {resource} limit of {limit}");
            causes.push(Cause::invalid(format!("{path}.resources.requests.{resource}"), request, &message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_limit_is_a_request_where_there_is_none() {
        let mut container = json!({"resources": {"limits": {"cpu": "1", "memory": "2"}, "requests": {"cpu": "500m"}}});
        request_defaults(&mut container);
        assert_eq!(container["resources"]["requests"], json!({"cpu": "500m", "memory": "2"}));
        let mut limited = json!({"resources": {"limits": {"cpu": "1"}, "requests": null}});
        request_defaults(&mut limited);
        assert_eq!(limited["resources"]["requests"], json!({"cpu": "1"}));
        for untouched in
            [json!({}), json!({"resources": {"requests": {"cpu": "1"}}}), json!({"resources": {"limits": {}}})]
        {
            let mut container = untouched.clone();
            request_defaults(&mut container);
            assert_eq!(container, untouched);
        }
    }

    #[test]
    fn amounts_are_quantities_and_nobody_asks_for_more_than_it_may_have() {
        let causes = |resources: Value| {
            let mut causes = Vec::new();
            resource_causes(&json!({"resources": resources}), "c", &mut causes);
            causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect::<Vec<_>>()
        };
        assert_eq!(causes(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1000m", "memory": "1"}})), [""; 0]);
        for (resource, limit, request) in
            [("cpu", "1", "1001m"), ("memory", "1Gi", "2G"), ("ephemeral-storage", "0", "1")]
        {
            let resources = json!({"limits": {resource: limit}, "requests": {resource: request}});
            let message = format!("must be less than or equal to {resource} limit of {limit}");
            let expected = format!("c.resources.requests.{resource}: Invalid value: {request:?}: {message}");
            assert_eq!(causes(resources), [expected]);
        }
        for wrong in [json!("lots"), json!("-1"), json!("")] {
            assert_eq!(causes(json!({"requests": {"ephemeral-storage": wrong}})).len(), 1, "{wrong}");
        }
    }
}
