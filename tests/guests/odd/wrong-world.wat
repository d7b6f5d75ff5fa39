;; A component that is no handler: it exports something else.
(component
  (core module $code (func (export "run") (result i32) (i32.const 42)))
  (core instance $instance (instantiate $code))
  (func $run (result u32) (canon lift (core func $instance "run")))
  (export "run" (func $run))
)
