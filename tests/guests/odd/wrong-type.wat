;; Exports the handler interface with a function of another type.
(component
  (core module $code (func (export "handle") (param i32) (result i32) (local.get 0)))
  (core instance $instance (instantiate $code))
  (func $handle (param "event" u32) (result u32) (canon lift (core func $instance "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "koksmat:plugin/handler@0.1.0" (instance $handler))
)
