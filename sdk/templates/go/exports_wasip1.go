package main

// Links the exports that the host calls. See postrider/export_postrider_stage_handler.
import _ "stage/gen/wit_exports"
