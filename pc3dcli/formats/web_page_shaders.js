// SPDX-License-Identifier: Apache-2.0
// What the viewer of `pc3d view` runs on the graphics card; the text of web_page.js follows it in the page.
"use strict";
const POINT_VERTEX = `#version 300 es
  uniform mat4 uMatrix; uniform float uDiameter; uniform vec2 uRange; uniform int uMode; uniform int uSelected;
  uniform vec4 uHeight; uniform float uCut; uniform sampler2D uPalette; uniform bool uPicking;
  layout(location = 0) in vec3 position; layout(location = 1) in vec3 color; layout(location = 2) in uint label;
  layout(location = 3) in float radius; layout(location = 4) in vec3 normal; uniform vec4 uEye; uniform vec3 uExtent;
  flat out vec4 vColor;
  void main() {
    gl_Position = uMatrix * vec4(position, 1.0);
    gl_PointSize = clamp(uDiameter * radius / gl_Position.w, uRange.x, uRange.y);
    int k = int(label);
    if (uEye.w > 0.0 && dot(normal, normalize(uEye.xyz - position * uExtent)) < -0.1) k = 65535;
    if (k == 65535 || dot(uHeight, vec4(position, 1.0)) > uCut) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
    if (uPicking) {
      int id = gl_VertexID + 1;
      vColor = vec4(float(id & 255), float((id >> 8) & 255), float((id >> 16) & 255), float((id >> 24) & 255)) / 255.0;
      return;
    }
    vec3 shown = color;
    if (uMode > 0) {
      float luma = dot(color, vec3(0.2126, 0.7152, 0.0722));
      shown = texelFetch(uPalette, ivec2(k & 255, k >> 8), 0).rgb * mix(0.8, 1.15, luma);
    }
    if (uSelected > 0 && k != uSelected) shown = mix(shown, vec3(dot(shown, vec3(0.333))), 0.75) * 0.7 + 0.15;
    vColor = vec4(shown, 1.0);
  }`;
const POINT_FRAGMENT = `#version 300 es
  precision mediump float; flat in vec4 vColor; out vec4 pixel;
  void main() { vec2 p = gl_PointCoord - 0.5; if (dot(p, p) > 0.25) discard; pixel = vColor; }`;
const SHADE_VERTEX = `#version 300 es
  void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;
// eye-dome lighting: a pixel darkens by how far its neighbours stand in front of it
const SHADE_FRAGMENT = `#version 300 es
  precision highp float; uniform sampler2D uColor; uniform highp sampler2D uDepth; uniform vec2 uPlanes; uniform vec3 uPaper;
  out vec4 pixel;
  float logDepth(ivec2 at) {
    float z = texelFetch(uDepth, clamp(at, ivec2(0), textureSize(uDepth, 0) - 1), 0).r * 2.0 - 1.0;
    return log2(2.0 * uPlanes.x * uPlanes.y / (uPlanes.y + uPlanes.x - z * (uPlanes.y - uPlanes.x)));
  }
  void main() {
    ivec2 at = ivec2(gl_FragCoord.xy);
    if (texelFetch(uDepth, at, 0).r == 1.0) { pixel = vec4(uPaper, 1.0); return; }
    float here = logDepth(at), shadow = 0.0;
    for (int step = 1; step <= 2; step++) {
      shadow += clamp(here - logDepth(at + ivec2(step, 0)), 0.0, 0.12) + clamp(here - logDepth(at - ivec2(step, 0)), 0.0, 0.12);
      shadow += clamp(here - logDepth(at + ivec2(0, step)), 0.0, 0.12) + clamp(here - logDepth(at - ivec2(0, step)), 0.0, 0.12);
    }
    pixel = vec4(texelFetch(uColor, at, 0).rgb * exp(-1.1 * shadow), 1.0);
  }`;

function buildProgram(gl, vertex, fragment) {
  const handle = gl.createProgram(), uniforms = {};
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(handle, shader);
  }
  gl.linkProgram(handle);
  for (let place = 0; place < gl.getProgramParameter(handle, gl.ACTIVE_UNIFORMS); place++) {
    const { name } = gl.getActiveUniform(handle, place);
    uniforms[name] = gl.getUniformLocation(handle, name);
  }
  return { handle, ...uniforms };
}
