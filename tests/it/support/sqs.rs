//! Clients of SQS that see the wire: both protocols, unsigned.

use serde_json::{Value, json};

use super::{Answer, Client};

/// A gateway, spoken to in SQS.
pub struct Sqs<'a>(pub &'a Client);

impl Sqs<'_> {
    /// An action in the JSON protocol.
    pub async fn json(&self, action: &str, input: &Value) -> Answer {
        self.json_at("/", action, input).await
    }

    /// The same at another path.
    pub async fn json_at(&self, path: &str, action: &str, input: &Value) -> Answer {
        let request =
            self.0.request("POST", path).header("content-type", "application/x-amz-json-1.0");
        let request = request.header("x-amz-target", format!("AmazonSQS.{action}"));
        Answer::of(request.body(input.to_string())).await
    }

    /// The output of an action that works.
    pub async fn done(&self, action: &str, input: &Value) -> Value {
        let answer = self.json(action, input).await.expect(200);
        assert_eq!(answer.header("content-type"), "application/x-amz-json-1.0");
        assert!(!answer.header("x-amzn-requestid").is_empty());
        answer.json()
    }

    /// The code and the message of an action that fails.
    pub async fn error(&self, action: &str, input: &Value) -> (String, String) {
        Self::told(action, input, &self.json(action, input).await)
    }

    fn told(action: &str, input: &Value, answer: &Answer) -> (String, String) {
        assert!(answer.status >= 400, "{action} {input:.200}: {}", answer.text);
        let body = answer.json();
        let shape = body["__type"].as_str().unwrap_or_default();
        assert!(shape.starts_with("com.amazonaws.sqs#"), "{body}");
        let code = answer.header("x-amzn-query-error").split(';').next().unwrap_or_default();
        (code.to_owned(), body["message"].as_str().expect("a message").to_owned())
    }

    /// The code of an action that fails, with the same status, code and message in both protocols.
    pub async fn error_in_both(&self, action: &str, input: &Value) -> String {
        let json = self.json(action, input).await;
        let (code, message) = Self::told(action, input, &json);
        let fields = fields(action, input, "");
        let fields: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let query = self.query(action, &fields).await;
        assert_eq!(query.status, json.status, "{action} {input:.200}: {}", query.text);
        let told = |name: &str| {
            let (_, rest) = query.text.split_once(&format!("<{name}>")).expect("an error");
            rest.split_once(&format!("</{name}>")).expect("its end").0.to_owned()
        };
        assert_eq!(told("Code"), code, "{action} {input:.200}");
        let plain = |text: &str| {
            let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")];
            named.iter().fold(text.to_owned(), |text, (name, plain)| text.replace(name, plain))
        };
        // XML has no place for control characters.
        let message = message.replace(char::is_control, "\u{fffd}");
        assert_eq!(plain(&told("Message")), message, "{action} {input:.200}");
        code
    }

    /// An action in the Query protocol.
    pub async fn query(&self, action: &str, fields: &[(&str, &str)]) -> Answer {
        let mut form = vec![("Action", action), ("Version", "2012-11-05")];
        form.extend(fields);
        let form = serde_urlencoded::to_string(form).expect("a form");
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        Answer::of(self.0.request("POST", "/").header("content-type", kind).body(form)).await
    }

    /// Makes a queue and returns its URL.
    pub async fn create(&self, name: &str, attributes: &Value) -> String {
        let input = json!({"QueueName": name, "Attributes": attributes});
        self.done("CreateQueue", &input).await["QueueUrl"].as_str().expect("a URL").to_owned()
    }

    /// Receives up to ten messages with all there is to know of them.
    pub async fn receive(&self, url: &str) -> Vec<Value> {
        let input = json!({
            "QueueUrl": url, "MaxNumberOfMessages": 10, "AttributeNames": ["All"],
            "MessageAttributeNames": ["All"],
        });
        let output = self.done("ReceiveMessage", &input).await;
        output["Messages"].as_array().cloned().unwrap_or_default()
    }
}

/// What a list is called in a form.
fn list_name(action: &str, name: &str) -> Option<String> {
    Some(match name {
        "AttributeNames" => "AttributeName".to_owned(),
        "MessageAttributeNames" => "MessageAttributeName".to_owned(),
        "MessageSystemAttributeNames" => "MessageSystemAttributeName".to_owned(),
        "TagKeys" => "TagKey".to_owned(),
        "AWSAccountIds" => "AWSAccountId".to_owned(),
        "Actions" => "ActionName".to_owned(),
        "Entries" => format!("{action}RequestEntry"),
        _ => return None,
    })
}

/// What a map is called in a form, and its keys.
fn map_name(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "Attributes" => ("Attribute", "Name"),
        "MessageAttributes" => ("MessageAttribute", "Name"),
        "MessageSystemAttributes" => ("MessageSystemAttribute", "Name"),
        "Tags" | "tags" => ("Tag", "Key"),
        _ => return None,
    })
}

/// The fields of a form with the same input, each behind `prefix`.
fn fields(action: &str, input: &Value, prefix: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut all = Vec::new();
    for (name, value) in input.as_object().expect("an object") {
        if let (Some(list), Some(items)) = (list_name(action, name), value.as_array()) {
            for (item, n) in items.iter().zip(1..) {
                let name = format!("{prefix}{list}.{n}");
                match item {
                    Value::Object(_) => all.extend(fields(action, item, &format!("{name}."))),
                    item => all.push((name, text(item))),
                }
            }
        } else if let (Some((map, key)), Some(pairs)) = (map_name(name), value.as_object()) {
            for ((called, value), n) in pairs.iter().zip(1..) {
                let name = format!("{prefix}{map}.{n}");
                all.push((format!("{name}.{key}"), called.clone()));
                match value {
                    Value::Object(_) => {
                        all.extend(fields(action, value, &format!("{name}.Value.")));
                    }
                    value => all.push((format!("{name}.Value"), text(value))),
                }
            }
        } else {
            all.push((format!("{prefix}{name}"), text(value)));
        }
    }
    all
}
