//! What derived schemas do not say: what names consist of, and which fields exclude each other.

use serde_json::json;
use utoipa::openapi::{
    Content, Object, ObjectBuilder, OneOfBuilder, OpenApi, RefOr, Schema,
    path::{Operation, Parameter, ParameterIn},
    schema::{SchemaType, Type},
};

use super::docs::operations;

/// What a text consists of: a pattern, and the least and the most characters.
type Text = (&'static str, usize, usize);

/// No `--`: a pattern without look-ahead, which not every language has.
const QUEUE: Text = ("^[a-z0-9](-?[a-z0-9_.])*-?$", 1, 47);
const ROUTING_KEY: Text = (r"^[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*$", 1, 255);
/// Words in which no two wildcards stand side by side.
const TOPIC: Text =
    (r"^([*#]|[*#]?([a-zA-Z0-9_-][*#]?)+)(\.([*#]|[*#]?([a-zA-Z0-9_-][*#]?)+))*$", 1, 255);
const KEY: Text = ("^[!-~]([ -~]*[!-~])?$", 1, 255);
/// PostgreSQL's text has no NUL.
const PLAIN: Text = (r"^[^\u0000]*$", 0, usize::MAX);
/// Its bytes are counted, which no pattern can say.
const REASON: Text = (r"^[^\u0000]*$", 0, 1_024);
const RECEIPT: Text = ("^[a-zA-Z0-9_-]+$", 1, usize::MAX);
const COUNT: Text = ("^[1-9][0-9]{0,8}$", 1, 9);
const TIME: Text = ("^[1-9][0-9]{0,3} (second|minute|hour|day|week|month|year)s?$", 5, 12);

/// Parameters, by their place and name, and what they consist of.
const PARAMETERS: [(ParameterIn, &str, Text); 8] = [
    (ParameterIn::Path, "queue", QUEUE),
    (ParameterIn::Path, "routing_key", ROUTING_KEY),
    (ParameterIn::Query, "pattern", TOPIC),
    (ParameterIn::Query, "prefix", PLAIN),
    (ParameterIn::Query, "receipt", RECEIPT),
    (ParameterIn::Query, "after", PLAIN),
    (ParameterIn::Header, "Idempotency-Key", KEY),
    (ParameterIn::Header, "Prefer", KEY),
];

/// Fields, by their schema and name, and what they consist of.
const FIELDS: [(&str, &str, Text); 8] = [
    ("DeadLetter", "reason", REASON),
    ("Bind", "pattern", TOPIC),
    ("EndOperation", "queue", QUEUE),
    ("EndOperation", "receipt", RECEIPT),
    ("SendOperation", "queue", QUEUE),
    ("SetVtOperation", "queue", QUEUE),
    ("SetVtOperation", "receipt", RECEIPT),
    ("SettingsChange", "dead_letter_queue", QUEUE),
];

/// Fields of which one must be given.
const EITHER: [(&str, &[&str]); 8] = [
    ("DeadLetter", &["msg_id", "receipt"]),
    ("EndOperation", &["msg_id", "receipt"]),
    ("Entry", &["msg_id", "receipt"]),
    ("Operation", &["send", "delete", "archive", "set_vt"]),
    ("Retry", &["msg_id", "receipt"]),
    ("SetVisibility", &["vt", "visible_at"]),
    ("SetVtOperation", &["msg_id", "receipt"]),
    ("SetVtOperation", &["vt", "visible_at"]),
];

/// Fields of which the second, where it is given, takes the place of the first.
const INSTEAD: [(&str, &str, &str); 2] =
    [("NewMessage", "delay", "visible_at"), ("SendOperation", "delay", "visible_at")];

/// Adds it to a document.
pub(super) fn refine(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    refine_parameter(parameter);
                }
            }
            refine_body(operation);
        }
    }
    let Some(components) = &mut document.components else { return };
    for (name, field, text) in FIELDS {
        if let Some(schema) = components.schemas.get_mut(name).and_then(object) {
            consist(schema, field, text);
        }
    }
    let mut split = |name, split: &dyn Fn(&Object) -> Vec<Object>| {
        if let Some(schema) = components.schemas.get_mut(name) {
            *schema = one_of(schema, split);
        }
    };
    for (name, fields) in EITHER {
        split(name, &|object| either(object, fields));
    }
    for (name, first, second) in INSTEAD {
        split(name, &|object| instead(object, first, second));
    }
    split("PartitionBody", &partitions);
}

fn refine_parameter(parameter: &mut Parameter) {
    // JSON in a parameter is content with a type.
    if parameter.name == "filter" {
        let any_object = ObjectBuilder::new().schema_type(Type::Object);
        let content = Content::new(Some(RefOr::T(Schema::from(any_object.build()))));
        parameter.schema = None;
        parameter.content.insert("application/json".to_owned(), RefOr::T(content));
    }
    if parameter.name == "queue" && parameter.description.is_none() {
        let text = "The queue. One that another client made may have other characters in its name.";
        parameter.description = Some(text.to_owned());
    }
    for (place, name, text) in PARAMETERS {
        let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema else { continue };
        let is_text = schema.format.is_none() && allows(schema, &Type::String);
        if parameter.parameter_in == place && parameter.name == name && is_text {
            schema.schema_type = Type::String.into();
            limit(schema, text);
        }
    }
}

/// Bodies that may be left out stand in the operation itself.
fn refine_body(operation: &mut Operation) {
    let creates = operation.operation_id.as_deref() == Some("create_queue");
    let Some(RefOr::T(body)) = &mut operation.request_body else { return };
    for content in body.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        let Some(schema) = &mut content.schema else { continue };
        if let Some(object) = object(schema) {
            consist(object, "to", QUEUE);
        }
        if creates {
            *schema = one_of(schema, &kinds);
        }
    }
}

/// The object in a schema, where it may be null instead, too.
fn object(schema: &mut RefOr<Schema>) -> Option<&mut Object> {
    match schema {
        RefOr::T(Schema::Object(object)) => Some(object),
        RefOr::T(Schema::OneOf(choices)) => choices.items.iter_mut().find_map(object),
        _ => None,
    }
}

fn consist(schema: &mut Object, field: &str, text: Text) {
    if let Some(RefOr::T(Schema::Object(field))) = schema.properties.get_mut(field) {
        limit(field, text);
    }
}

fn limit(schema: &mut Object, (pattern, least, most): Text) {
    schema.pattern = Some(pattern.to_owned());
    schema.min_length = Some(least).filter(|least| *least > 0);
    schema.max_length = Some(most).filter(|most| *most < usize::MAX);
}

/// Splits every object of a schema.
fn one_of(schema: &RefOr<Schema>, split: &dyn Fn(&Object) -> Vec<Object>) -> RefOr<Schema> {
    let (choices, description, examples) = match schema {
        RefOr::T(Schema::Object(object)) => {
            let examples = object.example.iter().cloned().collect();
            (vec![schema.clone()], object.description.clone(), examples)
        }
        RefOr::T(Schema::OneOf(whole)) => {
            (whole.items.clone(), whole.description.clone(), whole.examples.clone())
        }
        other => return other.clone(),
    };
    let mut whole = OneOfBuilder::new().description(description).examples(examples);
    for choice in choices {
        match choice {
            RefOr::T(Schema::Object(mut object)) if !object.properties.is_empty() => {
                (object.example, object.description) = (None, None);
                whole = split(&object).into_iter().fold(whole, OneOfBuilder::item);
            }
            other => whole = whole.item(other),
        }
    }
    RefOr::T(whole.build().into())
}

/// One object for each field, with that one and without the others.
fn either(object: &Object, fields: &[&str]) -> Vec<Object> {
    let with = |given: &&str| {
        let mut part = object.clone();
        for field in fields {
            if field == given { give(&mut part, field) } else { without(&mut part, field) }
        }
        part
    };
    fields.iter().map(with).collect()
}

fn instead(object: &Object, first: &str, second: &str) -> Vec<Object> {
    let (mut plain, mut other) = (object.clone(), object.clone());
    without(&mut plain, second);
    without(&mut other, first);
    give(&mut other, second);
    vec![plain, other]
}

/// `partition` goes with `partitioned` alone.
fn kinds(object: &Object) -> Vec<Object> {
    let one_of = |kind: SchemaType, kinds: serde_json::Value| {
        let kinds = kinds.as_array().cloned();
        RefOr::T(Schema::from(ObjectBuilder::new().schema_type(kind).enum_values(kinds).build()))
    };
    let text_or_null = SchemaType::from_iter([Type::String, Type::Null]);
    let (mut ordinary, mut partitioned) = (object.clone(), object.clone());
    let kind = one_of(text_or_null, json!(["standard", "unlogged", null]));
    ordinary.properties.insert("kind".to_owned(), kind);
    without(&mut ordinary, "partition");
    let kind = one_of(Type::String.into(), json!(["partitioned"]));
    partitioned.properties.insert("kind".to_owned(), kind);
    partitioned.required.push("kind".to_owned());
    vec![ordinary, partitioned]
}

/// Both count messages, or both are times.
fn partitions(object: &Object) -> Vec<Object> {
    let (mut counts, mut times) = (object.clone(), object.clone());
    for field in ["interval", "retention"] {
        consist(&mut counts, field, COUNT);
        give(&mut times, field);
        consist(&mut times, field, TIME);
        if let Some(RefOr::T(Schema::Object(time))) = times.properties.get_mut(field) {
            time.example = Some(json!(if field == "interval" { "1 day" } else { "7 days" }));
        }
    }
    vec![counts, times]
}

/// The field must be there, and not null.
fn give(object: &mut Object, field: &str) {
    object.required.push(field.to_owned());
    let Some(schema) = object.properties.get_mut(field) else { return };
    match schema {
        RefOr::T(Schema::Object(schema)) => {
            let types = match &schema.schema_type {
                SchemaType::Array(types) => types.iter().find(|t| **t != Type::Null).cloned(),
                _ => None,
            };
            if let Some(single) = types {
                schema.schema_type = single.into();
            }
        }
        RefOr::T(Schema::OneOf(choices)) => {
            if let Some(reference) = choices.items.iter().find(|c| matches!(c, RefOr::Ref(_))) {
                *schema = reference.clone();
            }
        }
        _ => {}
    }
}

/// The field may only be null.
fn without(object: &mut Object, field: &str) {
    let null = ObjectBuilder::new().schema_type(Type::Null).build();
    object.properties.insert(field.to_owned(), RefOr::T(null.into()));
}

fn allows(schema: &Object, wanted: &Type) -> bool {
    match &schema.schema_type {
        SchemaType::Type(found) => found == wanted,
        SchemaType::Array(found) => found.contains(wanted),
        SchemaType::AnyValue => false,
    }
}
