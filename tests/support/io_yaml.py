"""Specs of intrinsics as libraries have them."""

from __future__ import annotations

ANSWERABILITY = b"""\
model: ~
response_format: |
  {"type": "string", "enum": ["answerable", "unanswerable"]}
transformations:
  - type: likelihood
    input_path: []
    categories_to_values:
      "answerable": 1.0
      "unanswerable": 0.0
  - type: nest
    input_path: []
    field_name: answerability_likelihood
parameters:
  max_completion_tokens: 6
"""

UNCERTAINTY = b"""\
model: ~
response_format: |
  {"type": "integer", "minimum": 0, "maximum": 9}
transformations:
  - type: likelihood
    input_path: []
    categories_to_values: {0: 0.05, 1: 0.15, 2: 0.25, 3: 0.35, 4: 0.45, 5: 0.55, 6: 0.65, 7: 0.75, 8: 0.85, 9: 0.95}
  - type: nest
    input_path: []
    field_name: certainty
parameters: {max_completion_tokens: 3, temperature: 0.0}
"""

REQUIREMENT_CHECK = b"""\
model: ~
name: requirement-check
response_format: '{"type": "object", "properties": {"score": {"enum": ["yes", "no"]}}, "required": ["score"]}'
transformations:
  - {type: likelihood, input_path: [score], categories_to_values: {"yes": 1.0, "no": 0.0}}
instruction: "<requirements> {requirement}\\nPlease verify if the assistant's generation satisfies the requirements."
parameters: {max_completion_tokens: 20}
"""

HALLUCINATION = b"""\
model: ~
response_format: |
  {"type": "array", "items": {"type": "object", "properties": {
    "sentence_num": {"type": "integer"}, "is_faithful": {"enum": ["faithful", "partial", "unfaithful"]},
    "reasoning": {"type": "string"}}, "required": ["sentence_num", "is_faithful", "reasoning"]}}
transformations:
  - type: decode_sentences
    source: last_message
    input_path: [~, sentence_num]
    output_names: {begin: response_begin, end: response_end, text: response_text}
  - type: likelihood
    input_path: [~, is_faithful]
    categories_to_values: {"faithful": 1.0, "partial": 0.5, "unfaithful": 0.0}
  - type: project
    input_path: []
    retained_fields: {response_begin: response_begin, response_end: response_end, response_text: response_text,
                      is_faithful: faithfulness_likelihood, reasoning: explanation}
instruction: "Split the last assistant response into individual sentences. For each, say whether it is faithful."
sentence_boundaries: {last_message: i, documents: c}
docs_as_message: json
parameters: {max_completion_tokens: 1024}
"""

CITATIONS = b"""\
model: ~
response_format: |
  {"type": "array", "items": {"type": "object", "properties": {
    "r": {"type": "integer"}, "c": {"type": "array", "items": {"type": "integer"}}}, "required": ["r", "c"]}}
transformations:
  - {type: explode, input_path: [], target_field: c}
  - {type: drop_duplicates, input_path: [], target_fields: [r, c]}
  - type: decode_sentences
    source: last_message
    input_path: [~, r]
    output_names: {begin: response_begin, end: response_end, text: response_text}
  - type: decode_sentences
    source: documents
    input_path: [~, c]
    output_names: {document_id: citation_doc_id, begin: citation_begin, end: citation_end, text: citation_text}
  - type: project
    input_path: []
    retained_fields: [response_begin, response_end, response_text, citation_doc_id, citation_begin, citation_end,
                      citation_text]
  - type: merge_spans
    input_path: []
    group_fields: [citation_doc_id, citation_begin, citation_end, citation_text]
    begin_field: response_begin
    end_field: response_end
    text_field: response_text
instruction: "Cite the documents."
sentence_boundaries: {last_message: r, documents: c}
"""

LIBRARY = {
    "answerability": ANSWERABILITY,
    "uncertainty": UNCERTAINTY,
    "requirement-check": REQUIREMENT_CHECK,
    "hallucination": HALLUCINATION,
    "citations": CITATIONS,
}
"""One of each kind; together they use the seven transformations."""
