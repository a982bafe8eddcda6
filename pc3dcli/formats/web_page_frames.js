// SPDX-License-Identifier: Apache-2.0
// The strip of frames below the viewer of `pc3d view`, and the dialog that enlarges them.
"use strict";
function buildStrip(scene, element, make) {
  let frame = 0; // the one in the dialog
  const count = scene.frames.length;
  element("frames").hidden = !count;
  const which = count === scene.numFrames ? `All ${count} frames` : `${count} of ${scene.numFrames} frames, evenly spaced,`;
  element("frames-note").textContent = `${which} with their 2D masks; a mask's number and colour are those of its track.`;
  scene.frames.forEach((one, place) => {
    const button = make("button"), picture = make("img");
    Object.assign(picture, { src: frameSource(one), alt: one.caption, loading: "lazy" });
    Object.assign(button, { type: "button", title: one.caption });
    button.append(picture);
    button.addEventListener("click", () => { showFrame(place); element("frame").showModal(); });
    element("strip").append(button);
  });
  function frameSource(one) { return `data:image/jpeg;base64,${one.jpeg}`; }
  function showFrame(place) {
    frame = Math.max(0, Math.min(scene.frames.length - 1, place));
    Object.assign(element("frame-picture"), { src: frameSource(scene.frames[frame]), alt: scene.frames[frame].caption });
    element("frame-caption").textContent = `${scene.frames[frame].caption} (${frame + 1} of ${scene.frames.length})`;
    element("frame-back").disabled = frame === 0;
    element("frame-on").disabled = frame === scene.frames.length - 1;
  }
  element("frame-back").addEventListener("click", () => showFrame(frame - 1));
  element("frame-on").addEventListener("click", () => showFrame(frame + 1));
  element("frame").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { showFrame(frame + step); event.preventDefault(); }
  });
}
