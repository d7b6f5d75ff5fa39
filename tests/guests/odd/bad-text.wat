;; Rejects with a reason that is not UTF-8.
(component
  (import "koksmat:plugin/types@0.1.0" (instance $types
    (type $pairs (list (tuple string string)))
    (type $event' (record
      (field "id" string) (field "source" string) (field "type" string) (field "subject" (option string)) (field "time" (option string))
      (field "datacontenttype" (option string)) (field "dataschema" (option string)) (field "attributes" $pairs) (field "headers" $pairs)
      (field "data" (list u8))))
    (export "event" (type $event (eq $event')))
    (type $context' (record
      (field "tenant" string) (field "handler" string) (field "attempt" u32) (field "idempotency-key" string) (field "deadline" u64)
      (field "fencing-token" (option u64)) (field "traceparent" (option string))))
    (export "context" (type $context (eq $context')))
    (type $response' (record (field "status" u16) (field "headers" $pairs) (field "body" (list u8))))
    (export "response" (type $response (eq $response')))
    (type $advice' (record (field "reason" string) (field "after" (option u64))))
    (export "advice" (type $advice (eq $advice')))
    (type $failure' (variant (case "retry" $advice) (case "reject" string)))
    (export "failure" (type $failure (eq $failure')))
  ))
  (alias export $types "event" (type $event))
  (alias export $types "context" (type $context))
  (alias export $types "response" (type $response))
  (alias export $types "failure" (type $failure))
  (core module $code
    (memory (export "memory") 2)
    ;; Never gives anything back: an instance lives for one call.
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
      (global.set $free (i32.add (local.get $at) (local.get $size)))
      (local.get $at))
    ;; error(reject("\xff\xfe")): the reason is the two bytes at 64.
    (data (i32.const 16) "\01\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\40\00\00\00\02\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00")
    (data (i32.const 64) "\ff\fe")
    (func (export "handle") (param $arguments i32) (result i32) (i32.const 16))
  )
  (core instance $instance (instantiate $code))
  (func $handle (param "event" $event) (param "ctx" $context) (result (result $response (error $failure)))
    (canon lift (core func $instance "handle") (memory (core memory $instance "memory")) (realloc (core func $instance "realloc"))))
  (instance $handler (export "handle" (func $handle)))
  (export "koksmat:plugin/handler@0.1.0" (instance $handler))
)
