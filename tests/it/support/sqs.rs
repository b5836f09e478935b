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
        let answer = self.json(action, input).await;
        assert!(answer.status >= 400, "{action} {input}: {}", answer.text);
        let body = answer.json();
        let shape = body["__type"].as_str().unwrap_or_default();
        assert!(shape.starts_with("com.amazonaws.sqs#"), "{body}");
        let code = answer.header("x-amzn-query-error").split(';').next().unwrap_or_default();
        (code.to_owned(), body["message"].as_str().expect("a message").to_owned())
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
